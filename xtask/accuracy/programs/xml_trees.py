"""XML documents parsed, changed, kept for a while and written by lxml."""

import random
from collections import deque

from lxml import etree

from moments import Pace, moment

random.seed(3)
NAMES = ["item", "entry", "record", "node", "value", "price", "stock", "title"]


def document(nodes):
    root = etree.Element("feed")
    parents = [root]
    for _ in range(nodes):
        parent = random.choice(parents)
        child = etree.SubElement(parent, random.choice(NAMES), id=str(random.getrandbits(40)))
        child.text = "t" * random.choice((3, 20, 90, 400))
        if random.random() < 0.3:
            parents.append(child)
        if len(parents) > 40:
            parents.pop(random.randrange(1, 40))
    return etree.tostring(root)


SOURCES = [document(random.choice((300, 1500, 5000))) for _ in range(24)]
kept = deque()


def handle(keep):
    tree = etree.fromstring(random.choice(SOURCES))
    for node in tree.xpath("//item[@id]"):
        node.set("seen", "yes")
    for node in tree.findall(".//stock"):
        if random.random() < 0.5:
            node.getparent().remove(node)
    kept.append(tree)
    while len(kept) > keep:
        del kept[random.randrange(len(kept))]
    return len(etree.tostring(tree, pretty_print=True))


pace = Pace(0.3)
moment("sources")
for _ in range(8):
    for _ in range(14):
        handle(60)
    pace.wait()
moment("full")
for _ in range(6):
    for _ in range(14):
        handle(60)
    pace.wait()
moment("turned")
while len(kept) > 6:
    del kept[random.randrange(len(kept))]
moment("dropped")
for _ in range(7):
    for _ in range(4):
        handle(6)
    pace.wait()
moment("final")
