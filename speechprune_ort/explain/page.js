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

const dark = matchMedia("(prefers-color-scheme: dark)");
const color = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const HEIGHT = 94, AXIS = 22;

// What is drawn of a recording: a name, (times, values...) as uPlot takes them, and uPlot's series.
function panels(recording) {
  const { seconds, wave, curves } = recording;
  const found = [];
  if (wave) {
    const loudest = Math.max(1e-6, ...wave.high.map(Math.abs), ...wave.low.map(Math.abs)), n = wave.low.length;
    const edge = { stroke: color("wave"), width: 1, points: { show: false } };
    found.push({
      name: "waveform; blue was kept", numbers: false, range: [-loudest, loudest],
      data: [wave.low.map((_, i) => n < 2 ? 0 : seconds * i / (n - 1)), wave.high, wave.low],
      series: [edge, edge], bands: [{ series: [1, 2], fill: color("wave") }],
    });
  }
  for (const { name, whole, seconds: times, values } of curves) {
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    const line = { stroke: color("kept"), width: 1, points: { show: false } };
    const dots = { stroke: color("dot"), paths: () => null, points: { show: true, size: 3, width: 0, fill: color("dot") } };
    found.push({
      name, numbers: true, range: low < high ? [low, high] : [low - 1, low + 1],
      data: [times, values], series: [whole ? line : dots],
    });
  }
  if (!found.length) found.push({ name: "blue was kept", data: [[]] });
  return found.map((panel) => panel.data[0].length ? panel
    : { ...panel, numbers: false, range: [0, 1], data: [[0, seconds], [null, null]], series: [{}], bands: [] });
}

// Options of a plot, as wide as the screen's part of the tracks.
function options(recording, panel, width, last, moved) {
  const { seconds, spans } = recording;
  const kept = ({ ctx, bbox, valToPos }) => {
    ctx.save();
    ctx.globalAlpha = Number(color("shade")());
    ctx.fillStyle = color("kept")();
    for (const [start, end] of spans) {
      const from = Math.max(bbox.left, valToPos(start, "x", true));
      const to = Math.min(bbox.left + bbox.width, valToPos(end, "x", true));
      if (to >= from) ctx.fillRect(from, bbox.top, Math.max(1, to - from), bbox.height);
    }
    ctx.restore();
  };
  // The last one that is written has room beside it.
  const fits = ({ valToPos, width: now }, times) => times.map((time) => valToPos(time, "x") <= now - 36 ? time : null);
  return {
    width, height: HEIGHT + (last ? AXIS : 0), padding: [2, 0, 2, 0], legend: { show: false },
    scales: { x: { time: false }, y: { range: panel.range } },
    series: [{}, ...panel.series], bands: panel.bands,
    axes: [
      {
        show: last, size: AXIS, gap: 2, align: 1, space: 60, incrs: STEPS, filter: fits, stroke: color("faint"),
        font: "12px system-ui, sans-serif", grid: { show: false }, ticks: { stroke: color("line"), size: 4 },
        border: { show: true, stroke: color("line") }, values: (_, times) => times.map((time) => time === null ? null : clock(time, seconds)),
      },
      { show: false },
    ],
    cursor: { y: false, drag: { x: false, y: false }, points: { show: panel.numbers } },
    hooks: { drawClear: [kept], setCursor: [moved] },
  };
}

// The plots of a recording above each other; returns their node and a function that zooms.
function plots(recording, play) {
  const scroll = make("div", undefined, { class: "scroll" }), tracks = make("div", undefined, { class: "tracks" });
  // Wide tracks are scrolled; what is drawn stays in sight and is as wide as that.
  const seen = make("div", undefined, { class: "seen" });
  const head = make("div", undefined, { class: "head", style: "left:0" });
  const shown = panels(recording).map((panel, i, all) => {
    const label = make("div", undefined, { class: "label" }), value = make("output");
    const place = make("div", undefined, { role: "img", "aria-label": panel.name, class: i === all.length - 1 ? "plot last" : "plot" });
    label.append(make("span", panel.name), ...(panel.numbers ? [value] : []));
    seen.append(label, place);
    return { panel, place, value, plot: null };
  });
  tracks.append(seen, head);
  scroll.append(tracks);

  const tell = ({ plot, value, panel }) => {
    const at = plot.cursor.left >= 0 ? plot.cursor.idx : null;
    value.textContent = at === null || !panel.numbers ? ""
      : `${panel.data[1][at]} at ${clock(panel.data[0][at], recording.seconds)}`;
  };
  // The same moment is marked in all of them.
  const moved = (plot) => {
    for (const one of shown) {
      if (one.plot !== plot && one.plot) one.plot.setCursor({ left: plot.cursor.left, top: plot.cursor.top }, false);
      if (one.plot) tell(one);
    }
  };
  const look = () => {
    const scale = recording.seconds / tracks.offsetWidth, min = scale * scroll.scrollLeft;
    for (const { plot } of shown) plot.setScale("x", { min, max: min + scale * scroll.clientWidth });
  };
  new ResizeObserver(() => {
    const width = scroll.clientWidth;
    if (!width) return;
    seen.style.width = `${width}px`;
    shown.forEach((one, i) => {
      if (one.plot) one.plot.setSize({ width, height: one.plot.height });
      else one.plot = new uPlot(options(recording, one.panel, width, i === shown.length - 1, moved), one.panel.data, one.place);
    });
    look();
  }).observe(scroll);
  scroll.addEventListener("scroll", look);
  tracks.addEventListener("click", (event) => {
    const box = tracks.getBoundingClientRect();
    play(recording.seconds * (event.clientX - box.left) / box.width);
  });
  const repaint = () => {
    if (!scroll.isConnected) dark.removeEventListener("change", repaint);
    else for (const { plot } of shown) plot.redraw(false, true);
  };
  dark.addEventListener("change", repaint);
  const zoom = (times) => {
    const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / tracks.offsetWidth;
    tracks.style.width = `${100 * times}%`;
    scroll.scrollLeft = middle * tracks.offsetWidth - scroll.clientWidth / 2;
    look();
  };
  return { scroll, head, zoom };
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
  const { scroll, head, zoom: look } = plots(recording, play);
  node.append(scroll);
  if (seconds > 60) {
    const zoom = make("input", undefined, {
      type: "range", min: "1", max: String(Math.min(64, Math.ceil(seconds / 15))), value: "1",
    });
    const label = make("label", "zoom", { class: "zoom hint" });
    label.append(zoom);
    zoom.addEventListener("input", () => look(Number(zoom.value)));
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
