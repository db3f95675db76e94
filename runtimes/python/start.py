"""Starts the runtime. As small as can be: Python keeps no compiled form of the file that it is started with."""

import sys

if __name__ == "__main__":
    sys.path.append(sys.path.pop(0))  # our own directory is the last place where an action's imports look
    from invokerd_python import main

    main()
