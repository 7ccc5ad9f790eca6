// The page of a server: a recording is uploaded once, and every question is a column.
{
  const find = (id) => document.getElementById(id);
  const sound = document.querySelector("audio"), answers = find("answers");
  const WAVE_RATE = 8000, BINS = 1200, LONGEST_WAVE = 2 * 3600;
  let file = null, wave = null, busy = false;

  const headers = (more = {}) => {
    const key = find("key").value;
    return key ? { ...more, authorization: `Bearer ${key}` } : more;
  };

  const tell = (words) => { find("problem").textContent = words; };

  async function asked(path, options = {}) {
    const response = await fetch(path, { ...options, headers: headers(options.headers) }).catch(() => null);
    if (!response) throw new Error("The server cannot be reached: check that it runs, and try again.");
    if (response.ok) return response;
    if (response.status === 401) find("who").open = true;
    let words = `The server answered ${response.status}.`;
    try { words = (await response.json()).error.message; } catch { /* no sentence of its own */ }
    throw new Error(words);
  }

  // Where a file cannot be decoded here, the server may still hear it: then nothing is drawn of it.
  async function waveOf(chosen) {
    try {
      const context = new OfflineAudioContext(1, 1, WAVE_RATE);
      const samples = (await context.decodeAudioData(await chosen.arrayBuffer())).getChannelData(0);
      if (samples.length > LONGEST_WAVE * WAVE_RATE) return null;
      const step = Math.max(1, Math.ceil(samples.length / BINS)), low = [], high = [];
      for (let start = 0; start < samples.length; start += step) {
        let least = Infinity, most = -Infinity;
        for (const value of samples.subarray(start, start + step)) {
          if (value < least) least = value;
          if (value > most) most = value;
        }
        low.push(least); high.push(most);
      }
      return { low, high };
    } catch { return null; }
  }

  async function upload() {
    const [chosen] = find("file").files;
    if (!chosen) return;
    tell("");
    find("send").disabled = true;
    find("state").textContent = "listening …";
    if (file) asked(`/v1/files/${file}`, { method: "DELETE" }).catch(() => {});
    file = null;
    answers.replaceChildren();
    if (sound.src) URL.revokeObjectURL(sound.src);
    sound.src = URL.createObjectURL(chosen);
    sound.hidden = false;
    const form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", chosen);
    try {
      const [response, drawn] = await Promise.all([
        asked("/v1/files", { method: "POST", body: form }), waveOf(chosen)]);
      const heard = await response.json();
      file = heard.id;
      wave = drawn;
      find("state").textContent = [`${heard.seconds.toFixed(1)} s, ${heard.tokens} audio tokens`, ...heard.notes].join(" · ");
      find("send").disabled = false;
      find("question").focus();
    } catch (error) {
      find("state").textContent = "";
      sound.hidden = true;
      tell(error.message);
    }
  }

  find("file").addEventListener("change", upload);
  find("who").addEventListener("submit", (event) => event.preventDefault());
  find("key").addEventListener("change", () => { if (!file) upload(); });

  // Lines of server-sent events, as they come.
  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }

  find("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy || !file) return;
    busy = true;
    find("send").disabled = true;
    tell("");
    const question = find("question").value;
    const waiting = make("article"), text = make("p", "…", { class: "answer" });
    waiting.append(make("h2", question), text);
    answers.prepend(waiting);
    try {
      const body = {
        model: MODEL, stream: true, max_tokens: Number(find("longest").value),
        messages: [{ role: "user", content: [{ type: "file", file: { file_id: file } }, { type: "text", text: question }] }],
        speechprune: { pruning_rate: Number(find("rate").value), explain: true },
      };
      const response = await asked("/v1/chat/completions", {
        method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
      let said = "";
      for await (const chunk of events(response)) {
        if (chunk.error) throw new Error(chunk.error.message);
        const choice = chunk.choices[0];
        if (choice && choice.delta.content) text.textContent = said += choice.delta.content;
        if (chunk.speechprune) {
          const { view } = chunk.speechprune;
          waiting.replaceWith(article({ ...view, recordings: [{ ...view.recordings[0], wave }] }, [sound]));
        }
      }
      find("question").select();
    } catch (error) {
      waiting.remove();
      tell(error.message);
    } finally {
      busy = false;
      find("send").disabled = file === null;
    }
  });
}
