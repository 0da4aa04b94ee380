import sys
from shop import ingest
for n in range(int(sys.argv[1]), int(sys.argv[2])):
    ingest.delay(n)
