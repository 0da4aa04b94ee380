"use strict";
// Draws the map of the heap. All else on the page is there without it.
(() => {
  const source = document.getElementById("map-data");
  if (!source) return;
  const map = JSON.parse(source.textContent);
  const [box, canvas, room, where, key, mode] =
    ["heap-map", "map-canvas", "map-room", "map-where", "map-key", "map-mode"].map((id) => document.getElementById(id));
  const PAGE = 4096, EMPTY = 15, SWAPPED = 16, HUGE = 32, SHARED = 64, BLANK = 128;

  const firsts = [];
  let total = 0;
  for (const [, pages] of map.extents) {
    firsts.push(total);
    total += Math.ceil(pages / map.pages_a_cell);
  }
  // Each byte, and in groups of 7 bits how often more it follows.
  const unpacked = (text) => {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const cells = new Uint8Array(total);
    for (let at = 0, to = 0; at < packed.length; ) {
      const cell = packed[at++];
      let more = 0, shift = 0, byte;
      do {
        byte = packed[at++];
        more += (byte & 127) * 2 ** shift;
        shift += 7;
      } while (byte > 127);
      cells.fill(cell, to, to += more + 1);
    }
    return cells;
  };
  const cells = unpacked(map.cells);
  const held = map.held && unpacked(map.held.cells);

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const FULLNESS = ["#b3261e", "#c8452f", "#d9682f", "#e08a35", "#e0a83f", "#d4bd4a", "#b5c154", "#8fbc59", "#68b15c", "#45a45c", "#2e9e5b"];
  const STATES = [["in memory", "#5b8fd6"], ["swapped", "#a04bb5"], ["huge page", "#2e9e5b"], ["shared", "#8a94a0"], ["zeros in a huge page", "#d9822b"]];
  const empty = () => (dark.matches ? "#2a2f35" : "#e3e7eb");
  const unheld = () => (dark.matches ? "#59626c" : "#b4bcc4");
  const holder = (index) => `hsl(${(index * 137.5 + 20) % 360} 60% 55%)`;
  const holderName = (value) =>
    value === 0 ? "no name" : map.held.names[value - 1] || "other names";
  const owner = (index) => `hsl(${(index * 137.5) % 360} 55% 52%)`;
  const state = (cell) => cell & BLANK ? 4 : cell & SWAPPED ? 1 : cell & HUGE ? 2 : cell & SHARED ? 3 : 0;
  const extentOf = (cell) => {
    let low = 0, high = firsts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (firsts[middle] <= cell) low = middle; else high = middle - 1;
    }
    return low;
  };
  const colour = (index) => {
    const cell = cells[index];
    if ((cell & 15) === EMPTY) return empty();
    if (mode.value === "state") return STATES[state(cell)][1];
    if (mode.value === "owner") return owner(map.extents[extentOf(index)][2]);
    if (mode.value === "held" && (cell & 15) !== 0) return held[index] ? holder(held[index]) : unheld();
    return FULLNESS[cell & 15];
  };

  let size = 0, cursor = -1;
  const columns = () => Math.max(1, Math.floor(box.clientWidth / size));
  const rows = () => Math.ceil(total / columns());
  // The largest size at which all of it is seen, or the smallest that there is.
  const fit = () => {
    for (size = 16; size > 2 && rows() * size > box.clientHeight; size--);
  };
  const draw = () => {
    const scale = window.devicePixelRatio || 1, across = columns();
    const height = Math.min(box.clientHeight, rows() * size);
    canvas.width = across * size * scale;
    canvas.height = height * scale;
    canvas.style.width = `${across * size}px`;
    canvas.style.height = `${height}px`;
    room.style.height = `${Math.max(0, rows() * size - height)}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const first = Math.floor(box.scrollTop / size) * across, gap = size > 4 ? 1 : 0;
    for (let row = 0; row * size < height; row++) {
      for (let column = 0; column < across; column++) {
        const index = first + row * across + column;
        if (index >= total) return;
        pen.fillStyle = colour(index);
        pen.fillRect(column * size, row * size, size - gap, size - gap);
        if (index === cursor) {
          pen.strokeStyle = dark.matches ? "#ffffff" : "#000000";
          pen.lineWidth = 2;
          pen.strokeRect(column * size, row * size, size - gap, size - gap);
        }
      }
    }
  };
  const swatch = (fill, text) => {
    const item = document.createElement("span"), dot = document.createElement("span");
    item.className = "key";
    dot.className = "swatch";
    dot.style.background = fill;
    item.append(dot, text);
    return item;
  };
  const legend = () => {
    const none = swatch(empty(), "not in memory");
    const of = {
      fullness: () => [swatch(FULLNESS[0], "nothing live"), swatch(FULLNESS[5], "half"), swatch(FULLNESS[10], "all live")],
      state: () => STATES.map(([text, fill]) => swatch(fill, text)),
      owner: () => map.owners.slice(0, 8).map((name, index) => swatch(owner(index), name)),
      held: () => [
        ...map.held.names.map((name, index) => swatch(holder(index + 1), name)),
        swatch(holder(map.held.names.length + 1), "other names"), swatch(unheld(), "no name"), swatch(FULLNESS[0], "nothing live"),
      ],
    };
    key.replaceChildren(...of[mode.value](), none);
  };
  const say = (index) => {
    const at = extentOf(index), [start, pages, owned] = map.extents[at];
    const page = (index - firsts[at]) * map.pages_a_cell;
    const from = BigInt(`0x${start}`) + BigInt(page) * BigInt(PAGE);
    const many = Math.min(map.pages_a_cell, pages - page);
    const cell = cells[index], full = cell & 15;
    const words = full === EMPTY ? "not in memory" : `${full === 0 ? "nothing" : `up to ${full * 10} %`} of it live, ${STATES[state(cell)][0]}`;
    const whose = held && full !== EMPTY && full !== 0 ? `; most of that is held by ${holderName(held[index])}` : "";
    where.textContent = `0x${from.toString(16)}, ${many * 4} KiB of ${map.owners[owned]}: ${words}${whose}`;
  };
  const choose = (index) => {
    cursor = Math.max(0, Math.min(total - 1, index));
    const top = Math.floor(cursor / columns()) * size;
    if (top < box.scrollTop) box.scrollTop = top;
    if (top + size > box.scrollTop + box.clientHeight) box.scrollTop = top + size - box.clientHeight;
    say(cursor);
    draw();
  };
  const zoom = (by) => {
    const first = Math.floor(box.scrollTop / size) * columns();
    size = Math.max(2, Math.min(32, size + by));
    draw();
    box.scrollTop = Math.floor(first / columns()) * size;
    draw();
  };

  canvas.addEventListener("mousemove", (event) => {
    const column = Math.floor(event.offsetX / size), row = Math.floor(event.offsetY / size);
    const index = (Math.floor(box.scrollTop / size) + row) * columns() + column;
    if (column < columns() && index < total) say(index);
  });
  box.addEventListener("scroll", draw);
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    if (by) choose(cursor + by);
    else if (event.key === "+" || event.key === "=") zoom(2);
    else if (event.key === "-") zoom(-2);
    else if (event.key === "Home") choose(0);
    else if (event.key === "End") choose(total - 1);
    else return;
    event.preventDefault();
  });
  document.getElementById("map-in").addEventListener("click", () => zoom(2));
  document.getElementById("map-out").addEventListener("click", () => zoom(-2));
  mode.addEventListener("change", () => { legend(); draw(); });
  dark.addEventListener("change", () => { legend(); draw(); });
  window.addEventListener("resize", draw);
  window.addEventListener("beforeprint", () => { box.scrollTop = 0; fit(); draw(); });
  fit();
  legend();
  draw();
})();
