// The page that --explain writes: its answers and its sounds are in it.
{
  const content = JSON.parse(document.getElementById("content").textContent);
  const sounds = [...document.querySelectorAll("audio")];
  // One is heard at a time.
  for (const sound of sounds) {
    sound.addEventListener("play", () => sounds.forEach((other) => { if (other !== sound) other.pause(); }));
  }
  for (const view of content) document.getElementById("answers").append(article(view, sounds));
}
