"""Nothing but blocks of 600 to 1500 bytes, each freed after 20,000 others."""

kept = [None] * 20_000
for number in range(2_000_000):
    kept[number % len(kept)] = bytes(600 + number * 7919 % 900)
