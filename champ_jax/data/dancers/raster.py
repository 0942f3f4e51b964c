"""A small software rasteriser: a z-buffer of triangle numbers and barycentric coordinates, then colours and geometry read from it.

numba, one thread, no GPU and no display. Camera space: x right, y down, z forward, metres; a pixel's centre is at +0.5.
Coordinates are perspective-correct. A vertex has a `keep` number: where its interpolation is negative, the surface is cut away.
"""

import numba
import numpy as np

SKIN, EYES, SHOES = 0, 1, 4  # of clothes.py's layers
NEAR = 0.05


@numba.njit(cache=True, fastmath=True)
def rasterise(points, focal, cx, cy, faces, keep, two_sided, height, width):
    """The nearest triangle of each pixel.

    points f32 [N,3] in camera space; focal, cx, cy in pixels of this raster; faces i32 [T,3]; keep f32 [N]; two_sided bool [T].
    Returns (triangle i32 [H,W], -1 for none; weights f32 [H,W,2] of the triangle's first two corners; depth f32 [H,W], 0 for none).
    """
    n = points.shape[0]
    u = np.empty(n, np.float32)
    v = np.empty(n, np.float32)
    iz = np.empty(n, np.float32)
    for i in range(n):
        iz[i] = 1.0 / max(points[i, 2], np.float32(NEAR))
        u[i] = focal * points[i, 0] * iz[i] + cx
        v[i] = focal * points[i, 1] * iz[i] + cy
    triangle = np.full((height, width), -1, np.int32)
    weights = np.zeros((height, width, 2), np.float32)
    nearest = np.zeros((height, width), np.float32)  # of 1/z
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        if points[a, 2] < NEAR or points[b, 2] < NEAR or points[c, 2] < NEAR:
            continue
        ka, kb, kc = keep[a], keep[b], keep[c]
        area = (u[b] - u[a]) * (v[c] - v[a]) - (v[b] - v[a]) * (u[c] - u[a])
        # y points down, so triangles that face the camera turn with negative area
        if area == 0 or (area > 0 and not two_sided[t]):
            continue
        x0 = max(int(np.ceil(min(u[a], u[b], u[c]) - 0.5)), 0)
        x1 = min(int(np.floor(max(u[a], u[b], u[c]) - 0.5)), width - 1)
        y0 = max(int(np.ceil(min(v[a], v[b], v[c]) - 0.5)), 0)
        y1 = min(int(np.floor(max(v[a], v[b], v[c]) - 0.5)), height - 1)
        scale = 1.0 / area
        for y in range(y0, y1 + 1):
            py = y + np.float32(0.5)
            for x in range(x0, x1 + 1):
                px = x + np.float32(0.5)
                wa = ((u[b] - px) * (v[c] - py) - (v[b] - py) * (u[c] - px)) * scale
                wb = ((u[c] - px) * (v[a] - py) - (v[c] - py) * (u[a] - px)) * scale
                wc = 1 - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                wa *= iz[a]
                wb *= iz[b]
                wc *= iz[c]
                depth = wa + wb + wc
                if depth <= nearest[y, x]:
                    continue
                wa /= depth
                wb /= depth
                if wa * ka + wb * kb + (1 - wa - wb) * kc < 0:
                    continue
                nearest[y, x] = depth
                triangle[y, x] = t
                weights[y, x, 0] = wa
                weights[y, x, 1] = wb
    for y in range(height):
        for x in range(width):
            if triangle[y, x] >= 0:
                nearest[y, x] = 1 / nearest[y, x]
    return triangle, weights, nearest


@numba.njit(cache=True, fastmath=True)
def interpolate(triangle, weights, faces, values, out):
    """Vertex values f32 [N,C] at the covered pixels, into `out` f32 [H,W,C] (others are left alone)."""
    for y in range(triangle.shape[0]):
        for x in range(triangle.shape[1]):
            t = triangle[y, x]
            if t >= 0:
                wa, wb = weights[y, x, 0], weights[y, x, 1]
                for k in range(values.shape[1]):
                    out[y, x, k] = wa * values[faces[t, 0], k] + wb * values[faces[t, 1], k] + (1 - wa - wb) * values[faces[t, 2], k]


@numba.njit(cache=True, fastmath=True)
def pattern(kind, x, y, z, along, scale):
    """Share of the second colour, 0..1, at a standard rest position (metres) and limb parameter.

    Kinds: identity.PATTERNS, clothes.STRANDS.
    """
    run = y if along < 0.02 else -0.3 * along  # along the limb, so that sleeves and legs are striped across
    if kind == 1:  # stripes
        return 1.0 if np.floor(2 * run / scale) % 2 == 0 else 0.0
    if kind == 2:  # columns
        return 1.0 if np.floor(2 * (x + 0.5 * z) / scale) % 2 == 0 else 0.0
    if kind == 3:  # checks
        return 1.0 if (np.floor(2 * run / scale) + np.floor(2 * (x + 0.5 * z) / scale)) % 2 == 0 else 0.0
    if kind == 4:  # dots, every other row shifted
        row = np.floor(run / scale)
        column = (x + 0.5 * z) / scale + 0.5 * (row % 2)
        a, b = run / scale - row - 0.5, column - np.floor(column) - 0.5
        return 1.0 if a * a + b * b < 0.1 else 0.0
    if kind == 5:  # halves
        return 1.0 if x > 0 else 0.0
    if kind == 6:  # a logo on the chest
        a, b = x / 0.085, (y - 0.52) / 0.075
        return 1.0 if z > 0.03 and a * a + b * b < 1 else 0.0
    if kind == 7:  # coloured sleeves and a band over the chest
        return 1.0 if along > 0.12 or 0.43 < y < 0.53 else 0.0
    if kind == 8:  # strands of hair, from the crown down
        return 0.5 + 0.5 * np.sin(90 * np.arctan2(x, z - 0.045) + 9 * np.sin(60 * y))
    return 0.0


@numba.njit(cache=True, fastmath=True)
def _skin(style, x, y, z, lips, scalp, colour):
    """Paints lips, brows, eye lines, beard and cropped hair over the skin colour, in place."""
    for k in range(3):
        colour[k] = style[k] + (style[9 + k] - style[k]) * min(max(lips, 0.0), 1.0)
    side = abs(x)
    if z > 0.09 and y > 0.77:
        brow = 0.9245 - 9.0 * (side - 0.032) ** 2
        if 0.012 < side < 0.052 and abs(y - brow) < 0.0042:
            for k in range(3):
                colour[k] = 0.25 * colour[k] + 0.75 * 0.7 * style[3 + k]
        lid = ((side - 0.0311) / 0.0185) ** 2 + ((y - 0.8995) / 0.0082) ** 2
        if lid < 1.0:
            for k in range(3):
                colour[k] *= 0.45
        mouth = (side / 0.034) ** 2 + ((y - 0.825) / 0.0165) ** 2
        if style[6] > 0 and mouth > 1 and y < 0.8415 + 0.5 * max(0.0, side - 0.04) and lips < 0.3:
            for k in range(3):
                colour[k] = 0.45 * colour[k] + 0.55 * style[3 + k]
    if scalp > 0:
        for k in range(3):
            colour[k] = 0.15 * colour[k] + 0.85 * style[3 + k]


@numba.njit(cache=True, fastmath=True)
def shade(triangle, weights, faces, layer, attributes, normals, points, styles, light, out):
    """Colours of the covered pixels, into `out` f32 [H,W,3] in [0,1].

    attributes f32 [N,6] and styles f32 [6,12]: clothes.ATTRIBUTES and clothes.Figure; normals, points f32 [N,3] in camera space;
    light f32 [12]: direction to the key light 3 (camera space), key colour 3, ambient colour 3, shine, fill from below, rim.
    """
    n, p, a, colour = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(6, np.float32), np.empty(3, np.float32)
    for row in range(triangle.shape[0]):
        for column in range(triangle.shape[1]):
            t = triangle[row, column]
            if t < 0:
                continue
            wa, wb = weights[row, column, 0], weights[row, column, 1]
            wc = 1 - wa - wb
            i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
            for q in range(3):
                n[q] = wa * normals[i, q] + wb * normals[j, q] + wc * normals[k, q]
                p[q] = wa * points[i, q] + wb * points[j, q] + wc * points[k, q]
            for q in range(6):
                a[q] = wa * attributes[i, q] + wb * attributes[j, q] + wc * attributes[k, q]
            n /= np.sqrt(n[0] ** 2 + n[1] ** 2 + n[2] ** 2) + 1e-9
            p /= np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)
            inside = n[0] * p[0] + n[1] * p[1] + n[2] * p[2]
            if inside > 0:  # the inner side of a skirt or a sleeve
                n *= -1
                inside = -inside
            style = styles[layer[t]]
            if layer[t] == SKIN:
                _skin(style, a[0], a[1], a[2], a[4], a[5], colour)
            elif layer[t] == EYES:
                r2 = (abs(a[0]) - 0.0311) ** 2 + (a[1] - 0.9006) ** 2
                for q in range(3):
                    colour[q] = 0.03 if r2 < 0.0026**2 else (style[q] if r2 < 0.0065**2 else style[3 + q])
            else:
                share = pattern(int(style[6]), a[0], a[1], a[2], a[3], style[7])
                if layer[t] == SHOES and a[1] < -0.80:  # soles
                    share = 1.0
                for q in range(3):
                    colour[q] = style[q] + share * (style[3 + q] - style[q])
            facing = n[0] * light[0] + n[1] * light[1] + n[2] * light[2]
            key = max(0.0, (facing + 0.25) / 1.25)
            up = 0.5 - 0.5 * n[1]
            ambient = light[10] + (1 - light[10]) * up
            h0, h1, h2 = light[0] - p[0], light[1] - p[1], light[2] - p[2]
            half = (n[0] * h0 + n[1] * h1 + n[2] * h2) / (np.sqrt(h0 * h0 + h1 * h1 + h2 * h2) + 1e-9)
            gloss = style[8] * light[9] * max(0.0, half) ** 24
            rim = light[11] * (1 + inside) ** 3
            for q in range(3):
                value = colour[q] * (key * light[3 + q] + ambient * light[6 + q]) + gloss * light[3 + q] + rim * light[6 + q]
                out[row, column, q] = min(1.0, max(0.0, value))
