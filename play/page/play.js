"use strict";

// The messages are described in play/protocol.py. One message is in flight at a time, so a slow server slows the
// clock here instead of falling behind it.

const PERIOD = 50; // milliseconds of a step: 20 frames a second
const PLOTTED = 200; // the last steps in a plot
const AXIS_KEYS = [["a", "d"], ["s", "w"], ["q", "e"], ["j", "l"], ["k", "i"], ["u", "o"]]; // less, more
const CHOICE_KEYS = ["a", "d", "w", "s", "q", "e", "j", "l", "i", "k", "u", "o"];
const ARROWS = { ArrowLeft: "a", ArrowRight: "d", ArrowUp: "w", ArrowDown: "s" };
const NAMES = { a: "← A", d: "→ D", w: "↑ W", s: "↓ S", " ": "Space" };
const GRIPPER = /grip|finger|jaw/i;

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const keyName = (key) => NAMES[key] || key.toUpperCase();
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

let socket = null, welcome = null, view = null;
let playing = false, waiting = false, retry = 500;
let parted = ""; // why the server does not want this page any more
let queue = []; // what is sent as soon as the answer before it has come
let sentAt = 0, nextAt = 0, rates = [], latencies = [];
let history = []; // of each step what the server says of it, for the plots
let axes = []; // of a Box: {name, low, high, value, keys, gripper, slider, output}
let chosen = []; // of a discrete space the values that hold while no key does
const held = new Set();
let pads = [];

// ---- connection

function player() { // of this tab, so that it finds its session again after a lost connection
  let name = sessionStorage.getItem("player");
  if (!name) sessionStorage.setItem("player", name = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join(""));
  return name;
}

function connect() {
  const address = new URL("socket", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.search = new URLSearchParams({ player: player() });
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => receive(event.data);
  socket.onclose = disconnected;
}

function disconnected() {
  setPlaying(false);
  waiting = false;
  queue = [];
  for (const button of document.querySelectorAll("main button, main select, main input")) button.disabled = true;
  if (parted) {
    say(`${parted} `, make("button", { type: "button", id: "again", textContent: "Play here", onclick: () => { parted = ""; say(""); connect(); } }));
    return;
  }
  say("The connection is lost; the server saves what was recorded. Trying again …");
  setTimeout(connect, retry);
  retry = Math.min(2 * retry, 5000);
}

function receive(data) {
  if (typeof data === "string") {
    const message = JSON.parse(data);
    if (message.type === "welcome") begin(message);
    else if (message.type === "leave") parted = message.message;
    else if (message.type === "saved") $("saved").textContent = `Saved in ${message.folder}: ${message.files.join(", ")}`;
    else if (message.type === "error") {
      complain(`${message.name}: ${message.message}`);
      setPlaying(false);
      answered();
    }
    return;
  }
  const length = new DataView(data).getUint32(0);
  const values = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let place = 4 + length;
  for (const picture of values.pictures) {
    picture.blob = new Blob([new Uint8Array(data, place, picture.bytes)], { type: "image/png" });
    place += picture.bytes;
  }
  show(values);
}

function send(message) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return;
  if (waiting) {
    if (queue.length < 20) queue.push(message);
    return;
  }
  waiting = true;
  sentAt = performance.now();
  socket.send(message instanceof Blob ? message : JSON.stringify(message));
}

function answered() {
  waiting = false;
  if (queue.length) send(queue.shift());
}

function say(...parts) {
  $("status").replaceChildren(...parts);
  $("status").hidden = !parts.join("");
}

function complain(text) {
  $("problem-text").textContent = text;
  $("problem").hidden = !text;
}

function begin(message) {
  welcome = message;
  history = message.history;
  retry = 500;
  say("");
  waiting = true; // the first view follows
  for (const button of document.querySelectorAll("main button, main select, main input")) button.disabled = false;
  $("checkpoint").textContent = message.checkpoint;
  fill($("task"), message.tasks.map((task) => [task, task]));
  $("task-label").hidden = !message.tasks.length;
  $("task").value = message.task;
  fillStarts();
  $("success-figure").hidden = !message.predicts.success;
  if (!axes.length && !chosen.length) buildControls(message.actions);
  listKeys();
}

function fill(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));
}

function fillStarts() {
  const count = welcome.starts[$("task").value || welcome.task] || 0;
  const states = Array.from({ length: count }, (_, index) => [String(index), `start state ${index}`]);
  fill($("start"), [["", "the beginning of an episode"], ...states]);
}

// ---- pictures and values

async function show(values) {
  const bitmaps = await Promise.all(values.pictures.map((picture) => createImageBitmap(picture.blob)));
  const now = performance.now();
  const before = view;
  view = values;
  latencies = [...latencies.slice(-19), now - sentAt];
  layout(values);
  values.pictures.forEach((picture, index) => {
    const canvas = $("screen").querySelectorAll("canvas")[index];
    canvas.width = bitmaps[index].width;
    canvas.height = bitmaps[index].height;
    canvas.getContext("2d").drawImage(bitmaps[index], 0, 0);
  });
  if (!values.labels && values.plotted.length) {
    if (values.history) history = values.history;
    history.length = Math.max(0, values.step - 1);
    if (values.step) history[values.step - 1] = values.plotted[0];
  }
  if (before && values.step > before.step) rates = [...rates.slice(-19), now];
  label(values);
  plot();
  const last = values.plotted[0];
  if (playing && last && !values.labels && (last.terminated || (last.real_ended && !history[values.step - 2]?.real_ended))) {
    setPlaying(false);
    say(last.terminated ? "The episode ended in the learned environment. Play goes on from here." : "The episode ended in the simulator. Play goes on with the learned environment.");
  }
  answered();
}

function layout(values) {
  const names = values.pictures.map((picture) => picture.name).join();
  const screen = $("screen");
  if (screen.dataset.names === names) return;
  screen.dataset.names = names;
  screen.style.setProperty("--panes", Math.max(1, values.pictures.length));
  screen.className = values.labels ? "forked" : values.pictures.length > 1 ? "beside" : "alone";
  screen.replaceChildren(...values.pictures.map((picture, index) => {
    const figure = make("figure", {},
      make("canvas", { width: 1, height: 1, role: "img" }),
      make("figcaption", {}, make("span"), make("span")));
    if (values.labels) {
      const keep = make("button", { type: "button", onclick: () => send({ type: "choose", future: index }) }, "Keep ", make("kbd", { textContent: index + 1 }));
      keep.setAttribute("aria-keyshortcuts", index + 1);
      figure.append(keep);
    }
    return figure;
  }));
}

function label(values) {
  const figures = $("screen").querySelectorAll("figure");
  values.pictures.forEach((picture, index) => {
    const [name, value] = figures[index].querySelectorAll("figcaption span");
    const plotted = values.plotted[values.labels ? index : 0] || {};
    const title = values.labels ? values.labels[index] : picture.name;
    name.textContent = title;
    value.textContent = values.labels ? (values.step ? `reward ${number(plotted.reward)}` : "")
      : picture.name === "imagined" ? `return ${number(values.return, 1)}`
      : picture.name === "simulator" ? `return ${number(values.real_return, 1)}` : "doubled";
    figures[index].querySelector("canvas").setAttribute("aria-label", `${title}, step ${values.step}. ${value.textContent}`);
    const keep = figures[index].querySelector("button");
    if (keep) keep.setAttribute("aria-label", `Keep future ${index + 1}: ${title}`);
  });
  $("step").textContent = values.step;
  $("seed").value = document.activeElement === $("seed") ? $("seed").value : values.seed;
  $("note").textContent = values.simulator ? `No simulator: ${values.simulator}` : "";
  $("simulator-key").hidden = !values.pictures.some((picture) => picture.name === "simulator") && !history.some((each) => each.real_reward !== null);
  const forked = Boolean(values.labels);
  $("fork-luck").hidden = $("fork-actions").hidden = forked;
  $("discard").hidden = !forked;
  $("record").setAttribute("aria-pressed", values.recording !== null);
  $("record").firstChild.textContent = values.recording === null ? "Record " : `Save ${values.recording} ${values.recording === 1 ? "step" : "steps"} `;
  const drivers = [["", "You"], ...values.drivers.map((driver) => [driver.name, driver.label])];
  if ($("driver").options.length !== drivers.length) {
    const before = $("driver").value;
    fill($("driver"), drivers);
    $("driver").value = drivers.some(([name]) => name === before) ? before : "";
  }
  $("driver-label").hidden = drivers.length === 1;
}

function plot() {
  const shown = history.slice(-PLOTTED), first = history.length - shown.length;
  const last = shown[shown.length - 1] || {};
  draw($("reward"), first, [["imagined", shown.map((each) => each.reward)], ["simulator", shown.map((each) => each.real_reward)]]);
  draw($("success"), first, [["imagined", shown.map((each) => each.success_probability)], ["simulator", shown.map((each) => each.real_success === null ? null : Number(each.real_success))]], [0, 1]);
  draw($("uncertainty"), first, [["imagined", shown.map((each) => each.uncertainty)]]);
  const real = last.real_reward === null || last.real_reward === undefined ? "" : ` / ${number(last.real_reward)}`;
  $("reward-now").textContent = history.length ? number(last.reward) + real : "";
  $("success-now").textContent = history.length ? number(last.success_probability) : "";
  $("uncertainty-now").textContent = history.length ? number(last.uncertainty) : "";
}

function draw(canvas, first, lines, range) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  pen.scale(scale, scale);
  const values = lines.flatMap(([, line]) => line).filter((value) => value !== null && value !== undefined);
  let [low, high] = range || [Math.min(0, ...values), Math.max(0, ...values)];
  if (high - low < 1e-6) high = low + 1;
  const left = 34, right = width - 4, top = 8, bottom = height - 8;
  const x = (index) => left + (right - left) * index / (PLOTTED - 1);
  const y = (value) => bottom - (bottom - top) * (value - low) / (high - low);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = style.getPropertyValue("--quiet");
  pen.strokeStyle = style.getPropertyValue("--line");
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of [low, high]) {
    pen.fillText(Math.abs(value) >= 10 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1), left - 6, y(value));
    pen.beginPath(); pen.moveTo(left, y(value)); pen.lineTo(right, y(value)); pen.stroke();
  }
  for (const [name, line] of lines.reverse()) {
    pen.strokeStyle = style.getPropertyValue(`--${name}`);
    pen.lineWidth = 1.6;
    pen.beginPath();
    let drawing = false;
    line.forEach((value, index) => {
      if (value === null || value === undefined) { drawing = false; return; }
      if (drawing) pen.lineTo(x(index), y(value)); else pen.moveTo(x(index), y(value));
      drawing = true;
    });
    pen.stroke();
    const newest = line.length - 1;
    if (newest < 0 || line[newest] === null || line[newest] === undefined) continue;
    pen.fillStyle = pen.strokeStyle;
    pen.beginPath();
    pen.arc(x(newest), y(line[newest]), 2.5, 0, 7);
    pen.fill();
  }
}

// ---- actions

function buildControls(space) {
  if (space.kind === "Box") buildAxes(space);
  else if (space.kind === "Discrete") buildChoice(space);
  else buildParts(space);
}

function buildAxes(space) {
  let next = 0;
  axes = space.names.map((name, index) => {
    const low = space.low[index], high = space.high[index], gripper = GRIPPER.test(name);
    const keys = gripper ? [] : AXIS_KEYS[next++] || [];
    return { name, low, high, gripper, keys, middle: (low + high) / 2, value: (low + high) / 2, pad: 0 };
  });
  for (const [index, axis] of axes.entries()) {
    axis.slider = make("input", { type: "range", min: axis.low, max: axis.high, step: (axis.high - axis.low) / 100, value: axis.value });
    axis.slider.setAttribute("aria-label", `Action ${axis.name}`);
    axis.slider.oninput = () => { axis.value = Number(axis.slider.value); };
    axis.output = make("output");
    const keys = axis.gripper && index === gripperIndex() ? "Space" : axis.keys.map(keyName).join(" / ");
    $("controls").append(make("label", { className: "axis" }, make("span", {}, axis.name, make("small", { textContent: keys })), axis.slider, axis.output));
  }
  const free = axes.filter((axis) => !axis.gripper);
  for (let index = 0; index < Math.min(free.length, 4); index += 2) buildPad(free[index], free[index + 1]);
  $("centre").hidden = !axes.length;
}

const gripperIndex = () => axes.findIndex((axis) => axis.gripper);

function buildPad(horizontal, vertical) { // a stick; one axis alone moves up and down
  if (!vertical) [horizontal, vertical] = [null, horizontal];
  const knob = make("i"), pad = make("div", { className: horizontal ? "pad" : "pad tall" }, knob);
  pad.setAttribute("aria-hidden", "true"); // the sliders do the same for keyboards and screen readers
  const set = (across, up) => {
    if (horizontal) horizontal.pad = across;
    vertical.pad = up;
  };
  const move = (event) => {
    const box = pad.getBoundingClientRect(), reach = (size) => Math.max(1, size / 2 - 20);
    const clip = (value) => Math.max(-1, Math.min(1, value));
    set(horizontal ? clip((event.clientX - box.x - box.width / 2) / reach(box.width)) : 0, clip(-(event.clientY - box.y - box.height / 2) / reach(box.height)));
  };
  pad.onpointerdown = (event) => { pad.setPointerCapture(event.pointerId); move(event); };
  pad.onpointermove = (event) => { if (pad.hasPointerCapture(event.pointerId)) move(event); };
  pad.onpointerup = pad.onpointercancel = () => set(0, 0);
  const names = [horizontal, vertical].filter(Boolean).map((axis) => axis.name).join(", ");
  $("pads").append(make("div", { className: "stick" }, pad, make("span", { textContent: names })));
  pads.push({ knob, horizontal, vertical, pad });
}

function buildChoice(space) {
  chosen = [space.start];
  const group = make("div", { className: "choices", role: "radiogroup" });
  group.setAttribute("aria-label", "Action while no key is held");
  space.names.forEach((name, index) => {
    const button = make("button", { type: "button", onclick: () => { chosen = [space.start + index]; } }, name);
    if (CHOICE_KEYS[index]) button.append(" ", make("kbd", { textContent: keyName(CHOICE_KEYS[index]) }));
    button.setAttribute("role", "radio");
    group.append(button);
  });
  $("controls").append(group, make("p", { className: "legend", textContent: "A key acts while it is held; a click stays." }));
}

function buildParts(space) {
  const counts = space.kind === "MultiBinary" ? Array(space.shape.reduce((a, b) => a * b, 1)).fill(2) : space.counts.flat(9);
  const starts = space.kind === "MultiBinary" ? counts.map(() => 0) : space.start.flat(9);
  chosen = [...starts];
  counts.forEach((count, index) => {
    const select = make("select", { onchange: () => { chosen[index] = Number(select.value); } });
    fill(select, Array.from({ length: count }, (_, value) => [starts[index] + value, starts[index] + value]));
    $("controls").append(make("label", {}, `action ${index} `, select));
  });
}

function readGamepad() {
  const found = [...(navigator.getGamepads ? navigator.getGamepads() : [])].find(Boolean);
  if (!found) return null;
  const dead = (value) => (Math.abs(value || 0) < 0.12 ? 0 : value);
  const pressed = (index) => Boolean(found.buttons[index]?.pressed);
  return { sticks: [dead(found.axes[0]), -dead(found.axes[1]), -dead(found.axes[3]), dead(found.axes[2])], pressed };
}

let pressedBefore = {};
function currentAction() {
  const gamepad = readGamepad();
  const space = welcome.actions;
  if (gamepad) {
    const once = (index, act) => { if (gamepad.pressed(index) && !pressedBefore[index]) act(); pressedBefore[index] = gamepad.pressed(index); };
    once(0, toggleGripper);
    once(9, () => setPlaying(!playing));
  }
  if (space.kind === "Discrete") {
    let index = CHOICE_KEYS.findIndex((key, place) => place < space.names.length && held.has(key));
    if (index < 0 && gamepad) index = [14, 15, 12, 13].findIndex((button, place) => place < space.names.length && gamepad.pressed(button));
    return index < 0 ? chosen[0] : space.start + index;
  }
  if (space.kind !== "Box") return reshape(chosen, space.shape || shapeOf(space.counts));
  let stick = 0;
  return reshape(axes.map((axis) => {
    let push = axis.pad + Number(held.has(axis.keys[1])) - Number(held.has(axis.keys[0]));
    if (!axis.gripper && gamepad && stick < 4) push += gamepad.sticks[stick++];
    return Math.max(axis.low, Math.min(axis.high, axis.value + push * (axis.high - axis.low) / 2));
  }), space.shape);
}

const shapeOf = (value) => (Array.isArray(value) ? [value.length, ...shapeOf(value[0])] : []);
function reshape(flat, shape) {
  if (shape.length < 2) return shape.length ? flat : flat[0];
  const size = flat.length / shape[0];
  return Array.from({ length: shape[0] }, (_, index) => reshape(flat.slice(index * size, (index + 1) * size), shape.slice(1)));
}

function toggleGripper() {
  const gripper = axes[gripperIndex()];
  if (gripper) gripper.value = gripper.value > gripper.middle ? gripper.low : gripper.high;
}

function centre() {
  for (const axis of axes) axis.value = axis.middle;
}

function showAction(action) {
  const flat = [action].flat(9);
  axes.forEach((axis, index) => {
    axis.slider.value = axis.value;
    axis.output.textContent = flat[index].toFixed(2);
  });
  for (const { knob, horizontal, vertical, pad } of pads) {
    const shift = (axis) => (axis ? (flat[axes.indexOf(axis)] - axis.middle) / (axis.high - axis.low) * 2 : 0);
    knob.style.transform = `translate(${shift(horizontal) * (pad.clientWidth / 2 - 20)}px, ${-shift(vertical) * (pad.clientHeight / 2 - 20)}px)`;
  }
  if (welcome.actions.kind === "Discrete") {
    $("controls").querySelectorAll("button").forEach((button, index) => {
      const active = welcome.actions.start + index === action;
      button.setAttribute("aria-checked", active);
      button.setAttribute("aria-pressed", active);
    });
  }
}

// ---- playing

function step() {
  send($("driver").value ? { type: "step", driver: $("driver").value } : { type: "step", action: currentAction() });
}

function setPlaying(on) {
  playing = on;
  if (on) { say(""); complain(""); rates = []; }
  $("play").setAttribute("aria-pressed", on);
  $("play").firstChild.textContent = on ? "Pause " : "Play ";
}

function tick() {
  const now = performance.now();
  if (welcome && socket?.readyState === WebSocket.OPEN) {
    showAction(currentAction());
    if (playing && !waiting && now >= nextAt) {
      nextAt = Math.max(nextAt + PERIOD, now - PERIOD);
      step();
    }
  }
  const span = rates.length > 1 && playing ? (rates.length - 1) / (rates[rates.length - 1] - rates[0]) * 1000 : null;
  $("rate").textContent = span ? span.toFixed(0) : "–";
  $("latency").textContent = latencies.length && playing ? `${(latencies.reduce((a, b) => a + b, 0) / latencies.length).toFixed(0)} ms` : "–";
}

function startForm(seed) {
  const start = $("start").value;
  setPlaying(false);
  complain("");
  say("");
  send({ type: "reset", ...(welcome.tasks.length ? { task: $("task").value } : {}), seed, ...(start ? { start: Number(start) } : {}) });
}

function sendPicture(file) {
  if (!file) return;
  if (file.size > 8 * 2 ** 20) { complain("InvalidFrames: the picture has more than 8 MiB; make it smaller"); return; }
  setPlaying(false);
  complain("");
  send(file);
}

const seed = () => Math.max(0, Math.floor(Number($("seed").value)) || 0);
const COMMANDS = {
  Enter: ["play or pause", () => setPlaying(!playing)],
  ".": ["one step", () => { setPlaying(false); step(); }],
  ",": ["rewind; hold it to go further", () => { setPlaying(false); send({ type: "rewind", steps: 1 }); }],
  x: ["restart from the same start", () => startForm(seed())],
  n: ["a new start", () => startForm(Math.floor(Math.random() * 100000))],
  f: ["fork by luck: equal actions, four samples", () => send({ type: "fork", by: "luck" })],
  g: ["fork by actions: four constant actions", () => send({ type: "fork", by: "actions" })],
  Escape: ["back to before the fork", () => { if (view?.labels) send({ type: "choose" }); }],
  r: ["record, and save", () => send({ type: "record", on: view?.recording === null })],
  p: ["who drives", () => { const select = $("driver"); select.selectedIndex = (select.selectedIndex + 1) % select.options.length; }],
  c: ["centre all actions", centre],
  "?": ["this list", () => $("keys").showModal()],
};
const BUTTONS = { play: "Enter", single: ".", rewind: ",", restart: "x", fresh: "n", "fork-luck": "f", "fork-actions": "g", discard: "Escape", record: "r", centre: "c", help: "?" };

function listKeys() {
  const row = (keys, text) => make("tr", {}, make("td", {}, make("kbd", { textContent: keys })), make("td", { textContent: text }));
  const rows = axes.map((axis, index) => (axis.gripper ? index === gripperIndex() && ["Space", `${axis.name}: open or close`] : axis.keys.length && [axis.keys.map(keyName).join("  "), `${axis.name}: less, more`])).filter(Boolean);
  if (welcome.actions.kind === "Discrete") welcome.actions.names.forEach((name, index) => CHOICE_KEYS[index] && rows.push([keyName(CHOICE_KEYS[index]), name]));
  const commands = Object.entries(COMMANDS).map(([key, [text]]) => [key.length === 1 ? key.toUpperCase() : key, text]);
  $("key-list").replaceChildren(...[...rows, ...commands, ["1 – 4", "keep a future"]].map(([keys, text]) => row(keys, text)));
}

function keydown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !welcome) return;
  const field = event.target.closest("select, input, textarea"), onButton = event.target.closest("button, label.button");
  const key = ARROWS[event.key] || (event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (field && (field.type !== "range" || event.key.startsWith("Arrow") || event.key === "Tab") && event.key !== "Escape") return;
  if (onButton && (event.key === "Enter" || event.key === " ")) return; // presses the button
  if (view?.labels && "1234".includes(key) && key.length === 1) send({ type: "choose", future: Number(key) - 1 });
  else if (key === " " && gripperIndex() >= 0) { if (!event.repeat) toggleGripper(); }
  else if (moves(key)) held.add(key);
  else if (COMMANDS[key] && (!event.repeat || key === "," || key === ".")) COMMANDS[key][1]();
  else return;
  event.preventDefault();
}

const moves = (key) => axes.some((axis) => axis.keys.includes(key)) || (welcome.actions.kind === "Discrete" && CHOICE_KEYS.slice(0, welcome.actions.names.length).includes(key));

for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => welcome && COMMANDS[key][1]());
document.addEventListener("keydown", keydown);
document.addEventListener("keyup", (event) => held.delete(ARROWS[event.key] || event.key.toLowerCase()));
window.addEventListener("blur", () => held.clear());
window.addEventListener("resize", plot);
$("dismiss").addEventListener("click", () => complain(""));
$("task").addEventListener("change", fillStarts);
$("start-form").addEventListener("submit", (event) => { event.preventDefault(); startForm(seed()); });
$("picture").addEventListener("change", () => { sendPicture($("picture").files[0]); $("picture").value = ""; });
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); $("drop").classList.remove("over"); sendPicture(event.dataTransfer.files[0]); });
document.addEventListener("visibilitychange", () => { if (document.hidden) setPlaying(false); });

setInterval(tick, 10);
connect();
