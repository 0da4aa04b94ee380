"""An asyncio server and its clients in one process: streams of messages, some kept."""

import asyncio
import random

from moments import moment

random.seed(8)
store = {}


async def serve(reader, writer):
    while line := await reader.readline():
        verb, key, size = line.split()
        if verb == b"put":
            store[key] = await reader.readexactly(int(size))
            writer.write(b"ok 2\nok")
        else:
            body = store.get(key, b"")
            writer.write(b"ok %d\n" % len(body) + body)
        await writer.drain()
    writer.close()


async def client(path, number, requests, keys):
    chance = random.Random(number)
    reader, writer = await asyncio.open_unix_connection(path)
    for _ in range(requests):
        key = b"%d" % chance.randrange(keys)
        if chance.random() < 0.5:
            body = bytes(chance.choice((200, 1500, 6000, 20000, 60000, 200000)) + chance.randrange(100))
            writer.write(b"put %s %d\n" % (key, len(body)) + body)
        else:
            writer.write(b"get %s 0\n" % key)
        await writer.drain()
        _, size = (await reader.readline()).split()
        await reader.readexactly(int(size))
        await asyncio.sleep(0.004)
    writer.close()
    await writer.wait_closed()


async def crowd(path, clients, requests, keys):
    await asyncio.gather(*(client(path, number, requests, keys) for number in range(clients)))


async def main():
    path = "\0accuracy-sockets-%d" % random.SystemRandom().getrandbits(48)
    server = await asyncio.start_unix_server(serve, path)
    await crowd(path, 4, 40, 50)
    moment("warm")
    await crowd(path, 24, 90, 1500)
    moment("many")
    await crowd(path, 48, 50, 1500)
    moment("more")
    for key in list(store):
        if random.random() < 0.8:
            del store[key]
    moment("dropped")
    await crowd(path, 12, 120, 300)
    moment("again")
    store.clear()
    await crowd(path, 4, 100, 20)
    moment("final")
    server.close()


asyncio.run(main())
