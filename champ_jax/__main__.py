"""`python -m champ_jax COMMAND` is `champ-jax COMMAND`."""

import sys

from champ_jax.cli.main import main

sys.exit(main())
