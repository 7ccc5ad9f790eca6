"use strict";
// Draws answers beside their recordings. Text is only ever set as text: a question cannot write markup.

const STEPS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200];

function make(name, text, attributes = {}) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function clock(seconds, length) {
  if (length <= 120) return seconds.toFixed(1);
  const whole = Math.floor(seconds), minutes = Math.floor(whole / 60);
  return `${minutes}:${String(whole % 60).padStart(2, "0")}`;
}

// A picture of numbers alone, 1000 wide and 100 high, stretched to its place.
function picture(shapes, label) {
  const holder = make("div");
  holder.innerHTML = `<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img">${shapes.join("")}</svg>`;
  holder.firstChild.setAttribute("aria-label", label);
  return holder.firstChild;
}

function keptShapes(view) {
  return view.spans.map(([start, end]) => {
    const x = 1000 * start / view.seconds, width = Math.max(0.6, 1000 * (end - start) / view.seconds);
    return `<rect class="kept" x="${x.toFixed(2)}" width="${width.toFixed(2)}" y="0" height="100"/>`;
  });
}

function waveShape(low, high) {
  const loudest = Math.max(1e-6, ...high.map(Math.abs), ...low.map(Math.abs)), n = low.length;
  const x = (i) => (n < 2 ? 0 : 1000 * i / (n - 1)).toFixed(1);
  const y = (value) => (50 * (1 - value / loudest)).toFixed(1);
  const upper = high.map((value, i) => `${x(i)},${y(value)}`);
  const lower = low.map((value, i) => `${x(i)},${y(value)}`).reverse();
  return `<polygon class="wave" points="${upper.concat(lower).join(" ")}"/>`;
}

function curveShape(curve, seconds) {
  let low = Infinity, high = -Infinity;
  for (const value of curve.values) { low = Math.min(low, value); high = Math.max(high, value); }
  const y = (value) => (100 - 96 * (value - low) / (high - low || 1) - 2).toFixed(1);
  const x = (second) => (1000 * second / seconds).toFixed(2);
  if (curve.whole) {
    const points = curve.values.map((value, i) => `${x(curve.seconds[i])},${y(value)}`);
    return `<polyline class="curve" points="${points.join(" ")}"/>`;
  }
  const dots = curve.values.map((value, i) => `M${x(curve.seconds[i])} ${y(value)}h0.01`);
  return `<path class="dots" d="${dots.join("")}"/>`;
}

function axis(seconds) {
  const node = make("div", undefined, { class: "axis" });
  const step = STEPS.find((s) => seconds / s <= 6) || STEPS[STEPS.length - 1];
  for (let second = 0; second <= seconds - step / 2; second += step) {
    node.append(make("span", clock(second, seconds), { style: `left:${100 * second / seconds}%` }));
  }
  node.append(make("span", `${clock(seconds, seconds)}${seconds > 120 ? "" : " s"}`, { style: "left:100%" }));
  return node;
}

// One answer as an article; sounds are the players of the page, one for each recording or none.
function article(view, sounds) {
  const node = make("article"), several = view.recordings.length > 1;
  node.append(make("h2", view.question), make("p", view.text, { class: "answer" }));
  const facts = make("dl");
  for (const [name, text] of view.facts) facts.append(make("dt", name), make("dd", text));
  node.append(facts);

  const play = (place, second) => {
    const sound = sounds[place];
    if (!sound) return;
    sound.currentTime = Math.max(0, second);
    const playing = sound.play();
    if (playing) playing.catch(() => {});
  };

  const marks = view.recordings.map(() => []);
  const button = (place, start, end, title, style) => {
    const length = view.recordings[place].seconds;
    const text = `${clock(start, length)} – ${clock(end, length)}${title}`;
    const found = make("button", text, { type: "button", class: style });
    found.addEventListener("click", () => play(place, start));
    marks[place].push([found, start, end]);
    return found;
  };
  if (view.evidence) {
    const rests = make("div", undefined, { class: "spans evidence" });
    rests.append(make("span", "rests on", { class: "hint" }));
    for (const { recording, start, end, support } of view.evidence) {
      const name = several ? ` ${view.recordings[recording].name}` : "";
      rests.append(button(recording, start, end, `${name} (+${support.toFixed(1)})`, "rests"));
    }
    node.append(rests);
  }
  view.recordings.forEach((recording, place) => {
    const section = make("section");
    if (several) section.append(make("h3", recording.name));
    draw(section, recording, sounds[place], marks[place], (second) => play(place, second),
      (start, end) => button(place, start, end, "", "stretch"));
    node.append(section);
  });
  return node;
}

// A recording of an answer: what was kept of it, its scores, and what is said.
function draw(node, recording, sound, marks, play, stretch) {
  const seconds = recording.seconds;
  const tracks = make("div", undefined, { class: "tracks" });
  const panel = (name, shape) => tracks.append(
    make("div", name, { class: "label" }), picture([...keptShapes(recording), shape], name));
  if (recording.wave) panel("waveform; blue was kept", waveShape(recording.wave.low, recording.wave.high));
  for (const curve of recording.curves) panel(curve.name, curveShape(curve, seconds));
  if (!recording.wave && !recording.curves.length) panel("blue was kept", "");
  tracks.append(axis(seconds));
  const head = make("div", undefined, { class: "head", style: "left:0" });
  tracks.append(head);
  tracks.addEventListener("click", (event) => {
    const box = tracks.getBoundingClientRect();
    play(seconds * (event.clientX - box.left) / box.width);
  });
  const scroll = make("div", undefined, { class: "scroll" });
  scroll.append(tracks);
  node.append(scroll);
  if (seconds > 60) {
    const zoom = make("input", undefined, {
      type: "range", min: "1", max: String(Math.min(64, Math.ceil(seconds / 15))), value: "1",
    });
    const label = make("label", "zoom", { class: "zoom hint" });
    label.append(zoom);
    zoom.addEventListener("input", () => { tracks.style.width = `${100 * zoom.value}%`; });
    node.append(label);
  }

  const list = make("details");
  list.append(make("summary", `kept: ${recording.merged.length} stretches`));
  const spans = make("div", undefined, { class: "spans" });
  for (const [start, end] of recording.merged) spans.append(stretch(start, end));
  list.append(spans);
  list.open = recording.merged.length <= 24;
  node.append(list);

  if (recording.transcript.length) {
    const table = make("table");
    for (const line of recording.transcript) {
      const row = make("tr", undefined, { class: line.share >= 0.5 ? "in" : line.share < 0.1 ? "out" : "" });
      row.append(make("td", clock(line.start, seconds)), make("td", `${Math.round(100 * line.share)} % kept`),
        make("td", line.text));
      row.addEventListener("click", () => play(line.start));
      marks.push([row, line.start, line.end]);
      table.append(row);
    }
    node.append(table);
  }

  if (sound) {
    sound.addEventListener("timeupdate", () => {
      const now = sound.currentTime;
      head.style.left = `${Math.min(100, 100 * now / seconds)}%`;
      for (const [mark, start, end] of marks) {
        mark.setAttribute("aria-current", String(now >= start && now < end));
      }
    });
  }
}
