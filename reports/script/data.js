// The JSON of the page, each text read when it is first needed, and what a filter looks at in a row.
// A column is {all: value}, {of: values, at: places} or a plain list (reports/charts/embed.py).
const form = document.getElementById("filters");
const tip = document.getElementById("tip");
const dims = [...form.querySelectorAll("[data-filter]")].map((group) => group.dataset.filter);

const reader = (column) =>
  Array.isArray(column) ? (i) => column[i] : "at" in column ? (i) => column.of[column.at[i]] : () => column.all;
const readers = (columns) => Object.fromEntries(Object.entries(columns).map(([name, c]) => [name, reader(c)]));
const parse = (element) => JSON.parse(element.textContent);
// A property that is made at its first use.
const lazy = (object, name, make) => Object.defineProperty(object, name, { enumerable: true, configurable: true,
  get() { const value = make(); Object.defineProperty(object, name, { value, enumerable: true }); return value; } });
const grouped = (items, key) => {
  const groups = new Map();
  for (const item of items) (groups.get(key(item)) ?? groups.set(key(item), []).get(key(item))).push(item);
  return groups;
};
const tables = {};
for (const element of document.querySelectorAll("script[data-table]"))
  lazy(tables, element.dataset.table, () => { const { count, columns } = parse(element); return { count, read: readers(columns) }; });
const budget = (read, i) => (read.budget_value(i) === null ? null : `${read.budget_name(i)} ${read.budget_value(i)}`);
// What a filter looks at in a row; null where it does not apply.
const facets = {
  method: (read, i) => read.method(i),
  mode: (read, i, table) => (table === "efficiency" ? read.mode(i) : null),
  task: (read, i) => (["", "none"].includes(read.task(i)) ? null : read.task(i)),
  budget,
  hardware: (read, i) => read._hardware(i),
};
