"use strict";

// The messages are described in play/protocol.py. One message is in flight at a time, so a slow server slows the
// clock here instead of falling behind it.

const PERIOD = 50; // milliseconds of a step: 20 frames a second

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

let socket = null, welcome = null;
let playing = false, waiting = false, retry = 500;
let parted = ""; // why the server does not want this page any more
let sent = null; // the message that waits for its answer
let queue = []; // what is sent as soon as the answer before it has come
let sentAt = 0, nextAt = 0, rates = [], latencies = [];

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
    if (!message.driver) stopDriver();
    if (queue.length < 20) queue.push(message);
    return;
  }
  waiting = true;
  sent = message;
  sentAt = performance.now();
  socket.send(message instanceof Blob ? message : JSON.stringify(message));
}

function stopDriver() { // a planner takes seconds to decide: it need not
  if (waiting && sent?.driver && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "take over" }));
}

function takeOver() { // from whoever drives
  if (!$("driver").value) return;
  $("driver").value = "";
  stopDriver();
}

function answered() {
  waiting = false;
  sent = null;
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
  sent = null;
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

// ---- playing

function step() {
  send($("driver").value ? { type: "step", driver: $("driver").value } : { type: "step", action: currentAction() });
}

function setPlaying(on) {
  if (!on) stopDriver();
  if (on) { say(""); complain(""); rates = []; }
  showPlaying(on);
}

function showPlaying(on) {
  playing = on;
  $("play").setAttribute("aria-pressed", on);
  $("play").firstChild.textContent = on ? "Pause " : "Play ";
}

function singleStep() {
  if (waiting && sent?.driver) { showPlaying(false); return; } // that step comes
  setPlaying(false);
  step();
}

function tick() {
  const now = performance.now();
  if (welcome && socket?.readyState === WebSocket.OPEN) {
    const own = currentAction(); // a driver may end by it
    showAction($("driver").value && view?.acted ? view.acted.action : own);
    showDriver();
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
  ".": ["one step", singleStep],
  ",": ["rewind; hold it to go further", () => { setPlaying(false); send({ type: "rewind", steps: 1 }); }],
  x: ["restart from the same start", () => startForm(seed())],
  n: ["a new start", () => startForm(Math.floor(Math.random() * 100000))],
  f: ["fork by luck: equal actions, four samples", () => send({ type: "fork", by: "luck" })],
  g: ["fork by actions: four constant actions", () => send({ type: "fork", by: "actions" })],
  Escape: ["back to before the fork", () => { if (view?.labels) send({ type: "choose" }); }],
  r: ["record, and save", () => send({ type: "record", on: view?.recording === null })],
  p: ["who drives: you, the expert, an agent, the planner", () => { const select = $("driver"); select.selectedIndex = (select.selectedIndex + 1) % select.options.length; stopDriver(); }],
  c: ["centre all actions", centre],
  "?": ["this list", () => $("keys").showModal()],
};
const BUTTONS = { play: "Enter", single: ".", rewind: ",", restart: "x", fresh: "n", "fork-luck": "f", "fork-actions": "g", discard: "Escape", record: "r", centre: "c", help: "?" };

function listKeys() {
  const row = (keys, text) => make("tr", {}, make("td", {}, make("kbd", { textContent: keys })), make("td", { textContent: text }));
  const commands = Object.entries(COMMANDS).map(([key, [text]]) => [key.length === 1 ? key.toUpperCase() : key, text]);
  $("key-list").replaceChildren(...[...actionKeys(), ...commands, ["1 – 4", "keep a future"]].map(([keys, text]) => row(keys, text)));
}

function keydown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !welcome) return;
  const field = event.target.closest("select, input, textarea"), onButton = event.target.closest("button, label.button");
  const key = ARROWS[event.key] || (event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (field && (field.type !== "range" || event.key.startsWith("Arrow") || event.key === "Tab") && event.key !== "Escape") return;
  if (onButton && (event.key === "Enter" || event.key === " ")) return; // presses the button
  if (view?.labels && "1234".includes(key) && key.length === 1) send({ type: "choose", future: Number(key) - 1 });
  else if (key === " " && gripperIndex() >= 0) { if (!event.repeat) toggleGripper(); }
  else if (acts(key)) held.add(key);
  else if (COMMANDS[key] && (!event.repeat || key === "," || key === ".")) COMMANDS[key][1]();
  else return;
  event.preventDefault();
}

for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => welcome && COMMANDS[key][1]());
document.addEventListener("keydown", keydown);
document.addEventListener("keyup", (event) => held.delete(ARROWS[event.key] || event.key.toLowerCase()));
// After a click the keys drive again; who uses the keyboard keeps the focus.
let byPointer = false;
document.addEventListener("pointerdown", () => { byPointer = true; }, true);
document.addEventListener("keydown", () => { byPointer = false; }, true);
document.addEventListener("click", (event) => { if (byPointer) event.target.closest("button")?.blur(); });
document.addEventListener("change", (event) => { if (byPointer && event.target.matches("select, input[type=range]")) event.target.blur(); });
$("driver").addEventListener("change", stopDriver);
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

say("Loading the world and its simulator …");
setInterval(tick, 10);
connect();
