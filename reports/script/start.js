// Unhide what needs a script, then draw what is in sight.
document.querySelectorAll('table[id^="table-within"]').forEach(finder);
document.documentElement.classList.add("scripted");
form.hidden = false;
const charts = [...document.querySelectorAll("figure[data-chart]")].flatMap((figure) => {
  const place = figure.querySelector(".interactive");
  return [...figure.querySelectorAll('script[type="application/json"]')].map((source) => {
    const own = make("div", { class: "chart" });
    place.append(own);
    return new Chart(source, own, figure.querySelector("h4").textContent);
  });
});
new ResizeObserver(() => document.documentElement.style.setProperty("--bar", `${form.offsetHeight}px`)).observe(form);
// A few charts are drawn at once, so that nothing moves when scrolled to; in a large page each waits until in sight.
const large = document.documentElement.classList.contains("large");
if (!large) for (const chart of charts) chart.eager = true;
readAddress();
document.getElementById(anchor())?.scrollIntoView();
// Paper cannot unfold: open every table of the report before printing.
addEventListener("beforeprint", () => document.querySelectorAll("details.table").forEach((d) => { d.open = true; }));
