blocks = [bytes(1000 + n) for n in range(500)]
del blocks[::2]
grown = bytearray(300000)
grown.extend(b"x" * 300000)
