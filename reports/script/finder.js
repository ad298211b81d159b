// The question at the top: a cell of the table below it, picked by mode, length and memory.
function finder(table) {
  const rows = [...table.tBodies[0].rows];
  const texts = (cells) => [...new Set([...cells].map((cell) => cell.textContent.trim()))];
  const pick = (label, values, start) => {
    const select = make("select", { onchange: answer }, ...values.map((value, i) => make("option", { selected: i === start }, value)));
    return [select, make("label", {}, `${label} `, select)];
  };
  const answer = () => {
    const row = rows.find((r) => r.cells[0].textContent.trim() === mode.value && r.cells[1].textContent.trim() === memory.value);
    out.replaceChildren(...row.cells[2 + length.selectedIndex].cloneNode(true).childNodes);
  };
  const lengths = texts(table.tHead.rows[0].cells).slice(2);
  const limits = texts(rows.map((row) => row.cells[1]));
  const [mode, modeLabel] = pick("I want to run", texts(rows.map((row) => row.cells[0])), 0);
  const [length, lengthLabel] = pick("at a length of", lengths, lengths.length - 1);
  const [memory, memoryLabel] = pick("within", limits, limits.length - 1);
  const out = make("output", { "aria-live": "polite" });
  const form = make("form", { class: "finder", "aria-label": "Find the method to use" }, modeLabel, lengthLabel, memoryLabel, out);
  const part = table.closest(".part");
  (part.querySelector(".sentences") || part.querySelector("details")).before(form);
  answer();
}
