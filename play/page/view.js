"use strict";

// Pictures, figures and plots: what the page shows of a view.

const PLOTTED = 200; // the last steps in a plot

let view = null;
let decisions = []; // milliseconds of a driver's last decisions
let history = []; // of each step what the server says of it, for the plots

const seconds = (milliseconds) => (milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`);

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
      : picture.name === "simulator" ? `return ${number(values.real_return, 1)}` : "× 2";
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
  labelDrivers(values);
}

function labelDrivers(values) {
  const drivers = [["", "You"], ...values.drivers.map((driver) => [driver.name, driver.label])];
  if ([...$("driver").options].map((option) => option.value).join() !== drivers.map(([name]) => name).join()) {
    const before = $("driver").value;
    fill($("driver"), drivers);
    $("driver").value = drivers.some(([name]) => name === before) ? before : "";
  }
  $("driver-label").hidden = drivers.length === 1;
  decisions = values.acted ? [...decisions.slice(-7), values.acted.milliseconds] : [];
  $("decision").textContent = decisions.length ? seconds(Math.max(...decisions)) : "–";
}

function showDriver() { // who drives, and how long it has been deciding
  const name = $("driver").value, label = $("driver").selectedOptions[0]?.textContent;
  $("hint").hidden = $("decision-meter").hidden = !name;
  const deciding = waiting && sent?.driver && performance.now() - sentAt > 300;
  $("deciding").hidden = !deciding;
  if (!deciding) return;
  $("deciding-text").textContent = `${label || "Driver"}: ${sent.driver === "planner" ? "planning" : "deciding"} … `;
  $("deciding-time").textContent = seconds(performance.now() - sentAt);
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

function tickText(value) {
  if (Number.isInteger(value) || Math.abs(value) >= 10) return value.toFixed(0);
  return Math.abs(value) >= 1 ? value.toFixed(1) : Number(value.toPrecision(1)).toString();
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
    pen.fillText(tickText(value), left - 6, y(value));
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

