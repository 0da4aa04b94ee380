# Each turn adds 200 lines to a log that nobody empties, and needs some buffers for a moment.
import random
import time

random.seed(1)
AUDIT_LOG = []
while True:
    buffers = [bytes(random.randint(600, 3000)) for _ in range(2_000)]
    AUDIT_LOG.extend(b"request %d " % i * 50 for i in range(200))
    time.sleep(0.05)
