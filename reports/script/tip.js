// The words beside a mark.
function showTip(words, svg, mark) {
  const [name, ...lines] = words.filter(Boolean);
  tip.replaceChildren(make("strong", {}, name), ...lines.map((line) => make("span", {}, line)));
  tip.hidden = false;
  const box = svg.getBoundingClientRect();
  const x = Math.min(box.left + mark.px + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const below = box.top + mark.py + 16;
  const y = below + tip.offsetHeight > innerHeight ? box.top + mark.py - tip.offsetHeight - 14 : below;
  tip.style.transform = `translate(${Math.max(8, x)}px, ${y}px)`;
}
function hideTip() {
  tip.hidden = true;
  for (const ring of document.querySelectorAll("circle.focus")) ring.setAttribute("visibility", "hidden");
}
