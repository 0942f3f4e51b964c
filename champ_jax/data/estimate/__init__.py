"""What models find in pictures, each model behind one call: people and their poses, faces, depth, normals and parts."""
