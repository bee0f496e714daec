import sys

from tests.bench.command import main

sys.exit(main())
