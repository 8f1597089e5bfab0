"use strict";

// What the person does: keys, sticks, sliders, buttons and a gamepad become actions.

const AXIS_KEYS = [["a", "d"], ["s", "w"], ["q", "e"], ["j", "l"], ["k", "i"], ["u", "o"]]; // less, more
const CHOICE_KEYS = ["a", "d", "w", "s", "q", "e", "j", "l", "i", "k", "u", "o"];
const ARROWS = { ArrowLeft: "a", ArrowRight: "d", ArrowUp: "w", ArrowDown: "s" };
const NAMES = { a: "← A", d: "→ D", w: "↑ W", s: "↓ S", " ": "Space" };
const IN_PICTURE = ["move left, right in the picture", "move down, up in the picture", "lower, raise"];
const PADS = [["in the picture", "arrow keys"], ["height", "Q / E"]];
const GRIPPER = /grip|finger|jaw/i;

let axes = []; // of a Box: {name, low, high, middle, value, gripper, slider, output}
let moves = []; // of a Box, what a pair of keys or a stick does: {text, keys, vector, pad}
let chosen = []; // of a discrete space the values that hold while no key does
let chords = []; // of a list of actions: {keys, action}; the longest one that is held counts
let pads = [];
const held = new Set();

const keyName = (key) => NAMES[key] || key.toUpperCase();

function buildControls(space) {
  if (space.kind === "Box") buildAxes(space);
  else if (space.kind === "Discrete") buildChoice(space);
  else buildParts(space);
}

function buildAxes(space) {
  axes = space.names.map((name, index) => {
    const low = space.low[index], high = space.high[index];
    return { name, low, high, middle: (low + high) / 2, value: (low + high) / 2, gripper: GRIPPER.test(name) };
  });
  moves = space.directions.map((vector, index) => ({ text: IN_PICTURE[index], vector }));
  const others = axes.map((axis, index) => index).filter((index) => !axes[index].gripper && !moves.some((move) => move.vector[index]));
  for (const index of others) moves.push({ text: `${axes[index].name}: less, more`, axis: axes[index], vector: axes.map((_, other) => Number(other === index)) });
  moves.forEach((move, index) => Object.assign(move, { keys: AXIS_KEYS[index] || [], pad: 0 }));
  axes.forEach(buildSlider);
  if (space.directions.length) {
    buildPad(moves[0], moves[1], ...PADS[0]);
    if (space.directions.length > 2) buildPad(null, moves[2], ...PADS[1]);
  } else {
    for (let index = 0; index < Math.min(moves.length, 4); index += 2) {
      const pair = moves.slice(index, index + 2), names = pair.map((move) => move.axis.name).join(", ");
      if (pair.length > 1) buildPad(...pair, names); else buildPad(null, pair[0], names);
    }
  }
  $("centre").hidden = !axes.length;
}

const gripperIndex = () => axes.findIndex((axis) => axis.gripper);

function buildSlider(axis, index) {
  axis.slider = make("input", { type: "range", min: axis.low, max: axis.high, step: (axis.high - axis.low) / 100, value: axis.value });
  axis.slider.setAttribute("aria-label", `Action ${axis.name}`);
  axis.slider.oninput = () => { axis.value = Number(axis.slider.value); takeOver(); };
  axis.output = make("output");
  const keys = index === gripperIndex() ? "Space" : (moves.find((move) => move.axis === axis)?.keys || []).map(keyName).join(" / ");
  const name = make("span", {}, axis.name);
  if (keys) name.append(make("small", { textContent: keys }));
  $("controls").append(make("label", { className: "axis" }, name, axis.slider, axis.output));
}

function buildPad(horizontal, vertical, text, keys = "") { // a stick; without a horizontal move it is narrow
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
  $("pads").append(make("div", { className: "stick" }, pad, make("span", {}, text, make("small", { textContent: keys }))));
  pads.push({ knob, horizontal, vertical, pad });
}

function buildChoice(space) {
  const own = space.keys.map(([keys, action]) => ({ keys: keys.map((key) => ARROWS[key] || key.toLowerCase()), action }));
  chosen = [own.find((chord) => !chord.keys.length)?.action ?? space.start];
  const letters = own.length ? own : space.names.map((_, index) => ({ keys: CHOICE_KEYS.slice(index, index + 1), action: space.start + index }));
  const digits = space.names.slice(0, 10).map((_, index) => ({ keys: [String(index)], action: space.start + index }));
  chords = [...letters, ...digits].filter((chord) => chord.keys.length);
  const group = make("div", { className: "choices", role: "radiogroup" });
  group.setAttribute("aria-label", "Action while no key is held");
  space.names.forEach((name, index) => {
    const button = make("button", { type: "button", onclick: () => { chosen = [space.start + index]; takeOver(); } }, name);
    const keys = keysOf(space.start + index);
    if (keys) button.append(" ", make("kbd", { textContent: keys }));
    button.setAttribute("role", "radio");
    group.append(button);
  });
  $("controls").append(group, make("p", { className: "remark", textContent: "A key acts while it is held; a click stays." }));
}

function keysOf(action) { // the fewest keys that have to be held for it
  const found = chords.filter((chord) => chord.action === action), fewest = Math.min(...found.map((chord) => chord.keys.length));
  return found.filter((chord) => chord.keys.length === fewest).map((chord) => chord.keys.map(keyName).join(" + ")).join(" / ");
}

function heldChoice() { // the action of the keys that are held, or null
  const down = chords.filter((chord) => chord.keys.every((key) => held.has(key)));
  return down.sort((first, second) => second.keys.length - first.keys.length)[0]?.action ?? null;
}

function buildParts(space) {
  const counts = space.kind === "MultiBinary" ? Array(space.shape.reduce((a, b) => a * b, 1)).fill(2) : space.counts.flat(9);
  const starts = space.kind === "MultiBinary" ? counts.map(() => 0) : space.start.flat(9);
  chosen = [...starts];
  counts.forEach((count, index) => {
    const select = make("select", { onchange: () => { chosen[index] = Number(select.value); takeOver(); } });
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
function currentAction() { // of the person, who takes over from a driver by acting
  const gamepad = readGamepad();
  const space = welcome.actions;
  if (gamepad) {
    const once = (index, act) => { if (gamepad.pressed(index) && !pressedBefore[index]) act(); pressedBefore[index] = gamepad.pressed(index); };
    once(0, toggleGripper);
    once(9, () => setPlaying(!playing));
  }
  if (space.kind === "Discrete") {
    const cross = gamepad ? [14, 15, 12, 13].findIndex((button, place) => place < space.names.length && gamepad.pressed(button)) : -1;
    const action = heldChoice() ?? (cross < 0 ? null : space.start + cross);
    if (action !== null) takeOver();
    return action ?? chosen[0];
  }
  if (space.kind !== "Box") return reshape(chosen, space.shape || shapeOf(space.counts));
  const pushes = moves.map((move, index) => move.pad + Number(held.has(move.keys[1])) - Number(held.has(move.keys[0])) + (gamepad?.sticks[index] || 0));
  if (pushes.some(Boolean)) takeOver();
  return reshape(axes.map((axis, index) => {
    const push = moves.reduce((sum, move, place) => sum + pushes[place] * move.vector[index], 0);
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
  if (!gripper) return;
  gripper.value = gripper.value > gripper.middle ? gripper.low : gripper.high;
  takeOver();
}

function centre() {
  for (const axis of axes) axis.value = axis.middle;
}

function showAction(action) { // the person's, or what a driver did last
  const flat = [action].flat(9);
  const share = (axis, index) => (flat[index] - axis.middle) * 2 / (axis.high - axis.low || 1);
  axes.forEach((axis, index) => {
    axis.slider.value = $("driver").value ? flat[index] : axis.value;
    axis.output.textContent = flat[index].toFixed(2);
  });
  const shift = (move) => { // how far the action is along a move, -1 to 1
    if (!move) return 0;
    const along = axes.reduce((sum, axis, index) => sum + move.vector[index] * share(axis, index), 0);
    return along / move.vector.reduce((sum, value) => sum + value * value, 0);
  };
  for (const { knob, horizontal, vertical, pad } of pads) {
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

const acts = (key) => moves.some((move) => move.keys.includes(key)) || chords.some((chord) => chord.keys.includes(key));

function actionKeys() { // rows of the list of keys
  const rows = moves.filter((move) => move.keys.length).map((move) => [move.keys.map(keyName).join("  "), move.text]);
  if (gripperIndex() >= 0) rows.push(["Space", `${axes[gripperIndex()].name}: open or close`]);
  if (welcome.actions.kind === "Discrete") welcome.actions.names.forEach((name, index) => rows.push([keysOf(welcome.actions.start + index), name]));
  return rows.filter(([keys]) => keys);
}
