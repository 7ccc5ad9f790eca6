// The page that --explain writes: its answers and its sound are in it.
{
  const content = JSON.parse(document.getElementById("content").textContent);
  const sound = document.querySelector("audio");
  for (const view of content) document.getElementById("answers").append(article(view, sound));
}
