'use strict';
// The graph is a tree of items: regions hold nodes, rounds hold regions, repeats hold rounds. What is open shows its children in a box of its
// own; boxes are laid out from the inside out, layer by layer, and drawn on a canvas, of which only what is seen costs time.

const data = JSON.parse(document.getElementById('data').textContent);
const byId = id => document.getElementById(id);
const [OP, TYPE, ARGS, PLACE, IS_INPUT] = [0, 1, 2, 3, 4];
const COLOURS = {
  contraction: '#3b7dd8', fold: '#2f9e6e', map: '#d08a2e', pool: '#8c63c7', view: '#7d8794',
  order: '#c2526b', control: '#b0488f', random: '#9a8b2f', port: '#7d8794',
};
const escape = text => String(text).replace(/[&<>"]/g, c => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);
const count = number => number.toLocaleString('en');
const short = number => {
  for (const [unit, size] of [['G', 1e9], ['M', 1e6], ['k', 1e3]]) if (number >= size) return (number / size).toPrecision(3) + ' ' + unit;
  return String(Math.round(number)) + ' ';
};
const isNamed = node => data.nodes[node][IS_INPUT];
const nameOf = node => isNamed(node) ? data.nodes[node][OP] : '%' + node;

// ---- the tree of items

const producer = new Map();
data.regions.forEach((region, number) => region.outputs.forEach(node => producer.set(node, number)));
const regionItems = [];
const argumentItems = new Map();
const resultItems = [];
const all = [];

function item(kind, fields) {
  const made = { kind, parent: null, children: [], open: false, x: 0, y: 0, w: 0, h: 0, label: '', note: '', colour: COLOURS.port, ...fields };
  all.push(made);
  return made;
}

function adopt(parent, children) {
  parent.children = children;
  children.forEach(child => { child.parent = parent; });
  return parent;
}

/** The names of a region's operations, each once, views only if there is nothing else. */
function regionLabel(region) {
  const names = region.nodes.map(node => data.nodes[node][OP].split(' ')[0]);
  const views = new Set(['reshape', 'broadcast', 'permute', 'part', 'constant', 'const']);
  const told = [...new Set(names.filter(name => !views.has(name)))];
  const list = told.length ? told : [...new Set(names)];
  return list.length > 4 ? list.slice(0, 3).join(' · ') + ` · +${list.length - 3}` : list.join(' · ');
}

function regionItem(number) {
  const region = data.regions[number];
  const made = item('region', { region: number, colour: COLOURS[region.class], label: regionLabel(region) });
  made.note = region.outputs.length ? data.nodes[region.outputs[0]][TYPE] : '';
  const nodes = region.nodes.map(node => item('node', {
    node, region: number, parent: made, colour: made.colour, label: data.nodes[node][OP], note: data.nodes[node][TYPE],
  }));
  // A region of one node has nothing to open.
  const isOne = nodes.length === 1;
  made.nodeItems = new Map(region.nodes.map((node, at) => [node, isOne ? made : nodes[at]]));
  regionItems[number] = made;
  return adopt(made, isOne ? [] : nodes);
}

function treeItems(tree) {
  return tree.map(entry => {
    if (typeof entry === 'number') return regionItem(entry);
    const rounds = entry.rounds.map((round, at) => {
      const children = treeItems(round);
      return children.length === 1 ? children[0] : adopt(item('round', { open: true, label: `round ${at + 1}` }), children);
    });
    const inner = rounds[0].kind === 'round' ? rounds[0].children : [rounds[0]];
    const classes = inner.map(child => child.colour);
    const labels = inner.map(child => child.label);
    const told = labels.length > 3 ? labels.slice(0, 2).concat(`+${labels.length - 2} regions`) : labels;
    return adopt(item('repeat', { label: `${rounds.length} × ( ${told.join(' → ')} )`, colour: classes[0], note: 'repeated block' }), rounds);
  });
}

const root = item('root', { open: true });
for (const name of data.arguments) {
  const node = data.nodes.findIndex(entry => entry[IS_INPUT] && entry[OP] === name);
  if (node >= 0) argumentItems.set(node, item('argument', { node, label: name, note: data.nodes[node][TYPE] }));
}
const body = treeItems(data.tree);
for (const [name, node] of data.results) {
  if (producer.has(node)) resultItems.push([node, item('result', { node, label: name, note: data.nodes[node][TYPE] })]);
}
adopt(root, [...argumentItems.values(), ...body, ...resultItems.map(([, made]) => made)]);
root.depth = 0;
(function deepen(parent) { parent.children.forEach(child => { child.depth = parent.depth + 1; deepen(child); }); })(root);

// ---- edges between the smallest items, found once

const edges = [];
data.regions.forEach((region, number) => {
  const inside = new Set(region.nodes);
  const target = regionItems[number];
  const pairs = new Set();
  for (const node of region.nodes) {
    for (const arg of data.nodes[node][ARGS]) {
      const to = target.nodeItems.get(node);
      if (inside.has(arg)) edges.push([target.nodeItems.get(arg), to]);
      else if (producer.has(arg)) edges.push([regionItems[producer.get(arg)].nodeItems.get(arg) ?? regionItems[producer.get(arg)], to]);
      else if (argumentItems.has(arg)) edges.push([argumentItems.get(arg), to]);
      pairs.add(arg);
    }
  }
  for (const input of region.inputs) {
    if (!pairs.has(input) && producer.has(input)) edges.push([regionItems[producer.get(input)], target]);
  }
});
for (const [node, made] of resultItems) {
  const from = regionItems[producer.get(node)];
  edges.push([from.nodeItems.get(node) ?? from, made]);
}

// ---- layout

const measure = document.createElement('canvas').getContext('2d');
const FONT = '13px system-ui, sans-serif', SMALL = '11px ui-monospace, monospace';
const [GAP_X, GAP_Y, PAD, HEAD, WIDEST_ROW, LONGEST_LABEL] = [26, 34, 14, 22, 2600, 46];
const clip = text => text.length > LONGEST_LABEL ? text.slice(0, LONGEST_LABEL - 1) + '…' : text;

/** The item that is seen in place of another: the outermost closed one around it, or itself. */
function seen(from) {
  let found = from;
  for (let up = from.parent; up; up = up.parent) if (!up.open) found = up;
  return found;
}

let drawn = [];
function layout() {
  for (const made of all) made.out = null;
  drawn = [];
  const known = new Set();
  for (const [a, b] of edges) {
    const from = seen(a), to = seen(b);
    if (from === to) continue;
    const key = from.id * all.length + to.id;
    if (known.has(key)) continue;
    known.add(key);
    drawn.push([from, to]);
    let [x, y] = [from, to];
    while (x.depth > y.depth) x = x.parent;
    while (y.depth > x.depth) y = y.parent;
    while (x.parent !== y.parent) { x = x.parent; y = y.parent; }
    (x.out ??= new Set()).add(y);
  }
  size(root);
  place(root, 0, 0);
}
all.forEach((made, id) => { made.id = id; });

/** Gives an item its size and its children their places within it. */
function size(made) {
  if (!made.open || !made.children.length) {
    measure.font = FONT;
    const width = measure.measureText(clip(made.label)).width;
    measure.font = SMALL;
    made.w = Math.max(64, width, measure.measureText(clip(made.note)).width) + 22;
    made.h = made.note ? 40 : 26;
    return;
  }
  made.children.forEach(size);
  const layer = new Map();
  const before = new Map();
  for (const child of made.children) {
    const mine = layer.get(child) ?? 0;
    layer.set(child, mine);
    for (const next of child.out ?? []) {
      layer.set(next, Math.max(layer.get(next) ?? 0, mine + 1));
      (before.get(next) ?? before.set(next, []).get(next)).push(child);
    }
  }
  const rows = [];
  for (const child of made.children) (rows[layer.get(child)] ??= []).push(child);
  let y = made === root ? 0 : HEAD;
  let widest = 0;
  for (const row of rows.filter(Boolean)) {
    // Under what feeds them, as far as there is room.
    const wish = new Map(row.map(child => {
      const feeds = before.get(child) ?? [];
      return [child, feeds.length ? feeds.reduce((sum, feed) => sum + feed.cx, 0) / feeds.length : 0];
    }));
    row.sort((a, b) => wish.get(a) - wish.get(b));
    for (let at = 0; at < row.length;) {
      const line = [];
      let width = -GAP_X;
      while (at < row.length && (!line.length || width + GAP_X + row[at].w <= WIDEST_ROW)) {
        width += GAP_X + row[at].w;
        line.push(row[at++]);
      }
      const centre = line.reduce((sum, child) => sum + wish.get(child), 0) / line.length;
      let x = (row.length === line.length ? centre : 0) - width / 2;
      let tallest = 0;
      for (const child of line) {
        child.rx = x;
        child.ry = y;
        child.cx = x + child.w / 2;
        x += child.w + GAP_X;
        tallest = Math.max(tallest, child.h);
      }
      widest = Math.max(widest, width);
      y += tallest + GAP_Y;
    }
  }
  const left = Math.min(...made.children.map(child => child.rx));
  const right = Math.max(...made.children.map(child => child.rx + child.w));
  made.children.forEach(child => { child.rx -= left - PAD; });
  measure.font = SMALL;
  made.w = right - left + 2 * PAD;
  const spare = Math.max(0, measure.measureText(clip(made.label)).width + 2 * PAD - made.w);
  made.children.forEach(child => { child.rx += spare / 2; });
  made.w += spare;
  made.h = y - GAP_Y + PAD;
}

function place(made, x, y) {
  made.x = x;
  made.y = y;
  if (made.open) made.children.forEach(child => place(child, x + child.rx, y + child.ry));
}

// ---- drawing

const canvas = byId('canvas');
const pen = canvas.getContext('2d');
const view = { x: 0, y: 0, zoom: 1 };
let selected = null;
let asked = 0;

function fitCanvas(target) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = target.getBoundingClientRect();
  target.width = Math.max(1, Math.round(width * ratio));
  target.height = Math.max(1, Math.round(height * ratio));
  return [width, height, ratio];
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(['paper', 'panel', 'ink', 'soft', 'line', 'accent'].map(name => [name, style.getPropertyValue('--' + name)]));
}

function draw() {
  asked = 0;
  const [width, height, ratio] = fitCanvas(canvas);
  const theme = colours();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = theme.paper;
  pen.fillRect(0, 0, width, height);
  pen.setTransform(ratio * view.zoom, 0, 0, ratio * view.zoom, ratio * view.x, ratio * view.y);
  const area = { left: -view.x / view.zoom, top: -view.y / view.zoom };
  area.right = area.left + width / view.zoom;
  area.bottom = area.top + height / view.zoom;
  const boxes = [];
  collect(root, area, boxes);
  for (const made of boxes) if (made.open) drawBox(made, theme);
  drawEdges(area, theme);
  for (const made of boxes) if (!made.open) drawItem(made, theme);
}

function ask() { if (!asked) asked = requestAnimationFrame(draw); }

function collect(made, area, found) {
  if (made.x > area.right || made.y > area.bottom || made.x + made.w < area.left || made.y + made.h < area.top) return;
  const isOpen = made.open && made.children.length > 0;
  if (made !== root) found.push(made);
  if (isOpen) made.children.forEach(child => collect(child, area, found));
}

function drawBox(made, theme) {
  pen.beginPath();
  pen.roundRect(made.x, made.y, made.w, made.h, 9);
  pen.globalAlpha = .09;
  pen.fillStyle = made.colour;
  pen.fill();
  pen.globalAlpha = 1;
  pen.lineWidth = made === selected ? 2.5 : 1;
  pen.strokeStyle = made === selected ? theme.accent : theme.line;
  pen.stroke();
  if (view.zoom > .3) {
    pen.fillStyle = theme.soft;
    pen.font = SMALL;
    pen.fillText(clip(made.label), made.x + PAD, made.y + 14);
  }
}

function drawItem(made, theme) {
  const { x, y, w, h } = made;
  if (made.kind === 'repeat') {
    pen.fillStyle = theme.panel;
    pen.strokeStyle = theme.line;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.roundRect(x + 5, y + 5, w, h, 7);
    pen.fill();
    pen.stroke();
  }
  pen.beginPath();
  pen.roundRect(x, y, w, h, made.kind === 'argument' || made.kind === 'result' ? h / 2 : 7);
  pen.fillStyle = theme.panel;
  pen.fill();
  pen.globalAlpha = .2;
  pen.fillStyle = made.colour;
  pen.fill();
  pen.globalAlpha = 1;
  pen.lineWidth = made === selected ? 2.5 : 1.2;
  pen.strokeStyle = made === selected ? theme.accent : made.colour;
  pen.stroke();
  const share = made.kind === 'region' ? timeShare(made.region) : 0;
  if (share > 0) {
    pen.fillStyle = made.colour;
    pen.fillRect(x + 6, y + h - 4, Math.max(1, (w - 12) * share), 2.5);
  }
  if (view.zoom < .22) return;
  pen.textAlign = 'center';
  pen.fillStyle = theme.ink;
  pen.font = FONT;
  pen.fillText(clip(made.label), x + w / 2, y + 17);
  pen.fillStyle = theme.soft;
  pen.font = SMALL;
  if (made.note) pen.fillText(clip(made.note), x + w / 2, y + 32);
  pen.textAlign = 'left';
}

function drawEdges(area, theme) {
  pen.lineWidth = 1.1;
  pen.strokeStyle = theme.soft;
  pen.globalAlpha = .55;
  pen.beginPath();
  const strong = [];
  for (const [a, b] of drawn) {
    const [x0, y0, x1, y1] = [a.x + a.w / 2, a.y + a.h, b.x + b.w / 2, b.y];
    if (Math.max(x0, x1) < area.left - 200 || Math.min(x0, x1) > area.right + 200 || y1 < area.top || y0 > area.bottom) continue;
    if (selected && (a === selected || b === selected)) strong.push([x0, y0, x1, y1]);
    curve(x0, y0, x1, y1);
  }
  pen.stroke();
  pen.globalAlpha = 1;
  pen.strokeStyle = theme.accent;
  pen.lineWidth = 2;
  pen.beginPath();
  strong.forEach(line => curve(...line));
  pen.stroke();
}

function curve(x0, y0, x1, y1) {
  const reach = Math.max(14, (y1 - y0) / 2);
  // A long edge swings out, so that it does not run through what lies between.
  const side = y1 - y0 > 140 && Math.abs(x1 - x0) < 60 ? 90 + (y1 - y0) * .04 : 0;
  pen.moveTo(x0, y0);
  pen.bezierCurveTo(x0 + side, y0 + reach, x1 + side, y1 - reach, x1, y1);
}

// ---- what the user does

function setOpen(which) {
  for (const made of all) {
    if (made.kind === 'repeat') made.open = which(made);
    if (made.kind === 'region') made.open = which(made) && made.children.length > 0;
  }
  layout();
}

function fit() {
  const { width, height } = canvas.getBoundingClientRect();
  view.zoom = Math.min(1.25, Math.max(.02, Math.min((width - 40) / root.w, (height - 40) / root.h)));
  // A long graph is shown from its beginning, at a size that can be read.
  if (view.zoom < .45) view.zoom = Math.min(.8, Math.max(.02, (width - 40) / root.w));
  view.x = (width - root.w * view.zoom) / 2;
  view.y = 20;
  ask();
}

function under(x, y, made = root) {
  for (const child of made.children) {
    if (x >= child.x && x <= child.x + child.w && y >= child.y && y <= child.y + child.h) {
      return child.open && child.children.length ? under(x, y, child) ?? child : child;
    }
  }
  return null;
}

function toWorld(event) {
  const { left, top } = canvas.getBoundingClientRect();
  return [(event.clientX - left - view.x) / view.zoom, (event.clientY - top - view.y) / view.zoom];
}

let grip = null;
canvas.addEventListener('pointerdown', event => {
  grip = { x: event.clientX, y: event.clientY, moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener('pointermove', event => {
  if (!grip) return;
  const [dx, dy] = [event.clientX - grip.x, event.clientY - grip.y];
  if (!grip.moved && Math.hypot(dx, dy) < 4) return;
  grip = { x: event.clientX, y: event.clientY, moved: true };
  view.x += dx;
  view.y += dy;
  ask();
});
canvas.addEventListener('pointerup', event => {
  if (grip && !grip.moved) select(under(...toWorld(event)));
  grip = null;
});
canvas.addEventListener('dblclick', event => toggle(under(...toWorld(event)), event));
canvas.addEventListener('keydown', event => {
  if (event.key === 'Enter' && selected) toggle(selected);
});
canvas.addEventListener('wheel', event => {
  event.preventDefault();
  const [x, y] = toWorld(event);
  const zoom = Math.min(3, Math.max(.02, view.zoom * Math.exp(-event.deltaY * .0015)));
  view.x += x * (view.zoom - zoom);
  view.y += y * (view.zoom - zoom);
  view.zoom = zoom;
  ask();
}, { passive: false });

function toggle(made) {
  let which = made;
  while (which && (which.kind === 'node' || which.kind === 'round')) which = which.parent;
  if (!which || !which.children.length) return;
  const [x, y] = [which.x, which.y];
  which.open = !which.open;
  layout();
  // What was clicked stays where it was.
  view.x += (x - which.x) * view.zoom;
  view.y += (y - which.y) * view.zoom;
  ask();
}

function reveal(made) {
  for (let up = made.parent; up; up = up.parent) up.open = true;
  layout();
  const { width, height } = canvas.getBoundingClientRect();
  view.zoom = Math.max(view.zoom, .7);
  view.x = width / 2 - (made.x + made.w / 2) * view.zoom;
  view.y = height / 2 - (made.y + made.h / 2) * view.zoom;
  select(made);
}

function select(made) {
  selected = made;
  ask();
  showDetails(made);
  drawMemory();
}

// ---- details

const regionTime = number => data.regions[number].kernels.reduce((sum, kernel) => sum + (data.kernels[kernel].ms ?? 0), 0);
const totalTime = data.regions.reduce((sum, _, number) => sum + regionTime(number), 0);
const timeShare = number => totalTime > 0 ? regionTime(number) / totalTime : 0;

function nodeRows(nodes) {
  return nodes.map(node => {
    const [op, type, args, line] = data.nodes[node];
    const operands = isNamed(node) ? '' : args.map(arg => link(arg)).join(' ');
    return `<tr><td class="whole">${escape(nameOf(node))}</td><td>${escape(op)} ${operands}</td><td class="whole">${escape(type)}</td><td class="soft">${escape(line)}</td></tr>`;
  }).join('');
}

function link(node) {
  const name = escape(nameOf(node));
  return producer.has(node) ? `<a data-node="${node}">${name}</a>` : name;
}

function showDetails(made) {
  const side = byId('side');
  if (!made) return;
  if (made.region === undefined) {
    const inner = [];
    (function gather(of) { if (of.region !== undefined) inner.push(of.region); else of.children.forEach(gather); })(made);
    const flops = inner.reduce((sum, number) => sum + data.regions[number].flops, 0);
    const time = inner.reduce((sum, number) => sum + regionTime(number), 0);
    side.innerHTML = `<h2>${escape(made.label)}</h2><dl><dt>kind</dt><dd>${made.kind}</dd>` +
      (made.note ? `<dt>type</dt><dd>${escape(made.note)}</dd>` : '') +
      (inner.length ? `<dt>regions</dt><dd>${inner.length}</dd><dt>cost</dt><dd>${short(flops)}flop</dd>` : '') +
      (time > 0 ? `<dt>time</dt><dd>${time.toFixed(3)} ms</dd>` : '') + '</dl>';
    return;
  }
  const region = data.regions[made.region];
  const names = region.kernels.map(kernel => data.kernels[kernel].name).join(', ');
  const time = regionTime(made.region);
  const stopped = region.stopped.map(([node, reason]) => `<tr><td>${link(node)}</td><td>${escape(reason)}</td></tr>`).join('');
  const relayouts = region.relayouts.map(([node, written, layout, why]) =>
    `<tr><td>${written ? 'writes' : 'reads'} ${link(node)}</td><td class="whole">${escape(layout)}</td><td>${escape(why)}</td></tr>`).join('');
  side.innerHTML = `<h2>Region ${made.region}: ${escape(regionLabel(region))}</h2><dl>
    <dt>kernel</dt><dd>${escape(names)}</dd><dt>cost</dt><dd>${short(region.flops)}flop, ${short(region.bytes)}byte</dd>` +
    (time > 0 ? `<dt>time</dt><dd>${time.toFixed(4)} ms, ${(100 * timeShare(made.region)).toFixed(1)} % of all, ` +
      `${short(region.flops / time * 1e3)}flop/s</dd>` : '') + `
    <dt>reads</dt><dd>${region.inputs.map(node => `${link(node)} <span class="soft">${escape(data.nodes[node][TYPE])}</span>`).join('<br>')}</dd>
    <dt>writes</dt><dd>${region.outputs.map(node => `${escape(nameOf(node))} <span class="soft">${escape(data.nodes[node][TYPE])}</span>`).join('<br>')}</dd></dl>
    <h3>Nodes</h3><table><tr><th>node</th><th>operation</th><th>type</th><th>source</th></tr>${nodeRows(region.nodes)}</table>` +
    (relayouts ? `<h3>Where layouts change</h3><table><tr><th>value</th><th>layout</th><th>why</th></tr>${relayouts}</table>` : '') +
    (stopped ? `<h3>Why it is no larger</h3><table>${stopped}</table>` : '') + '<div class="tabs"></div><pre hidden></pre>';
  side.querySelectorAll('a[data-node]').forEach(a => a.addEventListener('click', () => reveal(regionItems[producer.get(+a.dataset.node)])));
  const tabs = side.querySelector('.tabs');
  const shown = side.querySelector('pre');
  const texts = region.bodies.map(([name, , packed]) => [name || 'body', packed]);
  for (const kernel of region.kernels) {
    const prefix = region.kernels.length > 1 ? data.kernels[kernel].name + ' ' : '';
    for (const [stage, , packed] of data.kernels[kernel].code) texts.push([prefix + stage, packed]);
  }
  for (const [name, packed] of texts) {
    const tab = document.createElement('button');
    tab.textContent = name;
    tab.addEventListener('click', async () => {
      tabs.querySelectorAll('button').forEach(other => other.setAttribute('aria-selected', other === tab));
      shown.hidden = false;
      shown.textContent = await unpack(packed);
    });
    tabs.append(tab);
  }
  [...tabs.children].find(tab => tab.textContent.endsWith('nest'))?.click();
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
}

// ---- search

const MOST_FOUND = 200;
const haystack = regionItems.flatMap((made, number) => data.regions[number].nodes.map(node => {
  const [op, type, , line] = data.nodes[node];
  const kernels = data.regions[number].kernels.map(kernel => data.kernels[kernel].name).join(' ');
  return { made, node, text: `%${node} ${op} ${type} ${line} ${kernels}`.toLowerCase() };
}));

function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return words.length ? haystack.filter(entry => words.every(word => entry.text.includes(word))) : [];
}

byId('search').addEventListener('input', event => {
  const found = search(event.target.value);
  const list = byId('found');
  list.hidden = !event.target.value.trim();
  list.innerHTML = found.length ? '' : '<li>nothing</li>';
  for (const { made, node } of found.slice(0, MOST_FOUND)) {
    const line = document.createElement('li');
    line.tabIndex = 0;
    const [op, type, , place] = data.nodes[node];
    line.innerHTML = `${escape(nameOf(node))} ${escape(op)} <small>${escape(type)} ${escape(place)}</small>`;
    const go = () => reveal(made.open ? made.nodeItems.get(node) : made);
    line.addEventListener('click', go);
    line.addEventListener('keydown', key => { if (key.key === 'Enter') go(); });
    list.append(line);
  }
  if (found.length > MOST_FOUND) list.insertAdjacentHTML('beforeend', `<li><small>and ${found.length - MOST_FOUND} more</small></li>`);
});
document.addEventListener('keydown', event => {
  if (event.key === '/' && document.activeElement !== byId('search')) { event.preventDefault(); byId('search').focus(); }
  if (event.key === 'Escape') { byId('search').value = ''; byId('found').hidden = true; canvas.focus(); }
});

// ---- the arena over time

const memory = byId('memory');
const ofKernel = new Map();
data.regions.forEach((region, number) => region.kernels.forEach(kernel => (ofKernel.get(kernel) ?? ofKernel.set(kernel, []).get(kernel)).push(number)));

function drawMemory() {
  const [width, height, ratio] = fitCanvas(memory);
  const theme = colours();
  const paint = memory.getContext('2d');
  const { bytes, steps, blocks } = data.memory;
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint.clearRect(0, 0, width, height);
  const [across, up] = [width / Math.max(1, steps.length), height / Math.max(1, bytes)];
  for (const [offset, length, first, last, kernel] of blocks) {
    const regions = ofKernel.get(kernel) ?? [];
    const isSelected = selected?.region !== undefined && regions.includes(selected.region);
    paint.fillStyle = isSelected ? theme.accent : COLOURS[data.regions[regions[0]]?.class] ?? COLOURS.port;
    paint.globalAlpha = isSelected ? 1 : .6;
    const [x, y, w, h] = [first * across, height - (offset + length) * up, (last + 1 - first) * across, length * up];
    paint.fillRect(x, y, Math.max(1, w - .5), Math.max(.5, h - .5));
  }
  paint.globalAlpha = 1;
}

memory.addEventListener('click', event => {
  const { left, top, width, height } = memory.getBoundingClientRect();
  const step = Math.floor((event.clientX - left) / width * data.memory.steps.length);
  const byte = (1 - (event.clientY - top) / height) * data.memory.bytes;
  const hit = data.memory.blocks.find(([offset, length, first, last]) => first <= step && step <= last && offset <= byte && byte < offset + length);
  const regions = hit ? ofKernel.get(hit[4]) : undefined;
  if (regions?.length) reveal(regionItems[regions[0]]);
});

// ---- begin

byId('title').textContent = `${data.title} · ${data.entry}`;
const flops = data.regions.reduce((sum, region) => sum + region.flops, 0);
byId('summary').textContent = `${count(data.nodes.length)} nodes, ${count(data.regions.length)} regions, ${count(data.kernels.filter(Boolean).length)} kernels, ` +
  `${short(flops)}flop${totalTime > 0 ? `, ${totalTime.toFixed(2)} ms in kernels` : ''} · ${data.target}`;
byId('arena').textContent = `${count(data.memory.bytes)} bytes over ${count(data.memory.steps.length)} steps; click finds the region`;
byId('legend').innerHTML = [...new Set(data.regions.map(region => region.class))]
  .map(name => `<li><i style="background:${COLOURS[name]}"></i>${name}</li>`).join('');
const foldAll = () => setOpen(() => false);
const openBlocks = () => setOpen(made => made.kind === 'repeat');
const openAll = () => setOpen(() => true);
for (const [button, action] of [['fold', foldAll], ['blocks', openBlocks], ['open', openAll], ['fit', () => {}]]) {
  byId(button).addEventListener('click', () => { action(); fit(); });
}
window.addEventListener('resize', () => { ask(); drawMemory(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { ask(); drawMemory(); });
foldAll();
fit();
draw();
drawMemory();

// For tests: `#measure` opens and folds everything, unpacks all code, and writes what it saw and how long it took into the page.
if (location.hash === '#measure') {
  const loaded = performance.now();
  const visible = () => all.filter(made => made !== root && seen(made) === made && !(made.open && made.children.length)).length;
  const folded = visible();
  openAll(); fit(); draw();
  const opened = performance.now();
  const open = visible();
  foldAll(); fit(); draw();
  const done = performance.now();
  const hits = search('src').length + search('%').length;
  select(regionItems[0]);
  Promise.all(data.kernels.filter(Boolean).flatMap(kernel => kernel.code.map(async ([, length, packed]) => (await unpack(packed)).length === length))).then(whole => {
    const seenThen = { load_ms: loaded, open_ms: opened - loaded, fold_ms: done - opened, folded, open, again: visible(), hits,
      relayouts: data.regions.filter(region => region.relayouts.length).length,
      code_whole: whole.every(Boolean), details: byId('side').textContent.length, boxes_apart: apart() };
    document.body.insertAdjacentHTML('beforeend', `<pre id="measured">${JSON.stringify(seenThen)}</pre>`);
  });
}

/** Whether no two boxes that are seen side by side overlap, everything open. */
function apart() {
  openAll();
  const overlap = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
  const fine = made => {
    const row = [...made.children].sort((a, b) => a.y - b.y);
    for (let i = 0; i < row.length; i++) {
      for (let j = i + 1; j < row.length && row[j].y < row[i].y + row[i].h; j++) if (overlap(row[i], row[j])) return false;
    }
    return row.every(child => !child.open || fine(child));
  };
  const result = fine(root);
  foldAll(); fit();
  return result;
}
