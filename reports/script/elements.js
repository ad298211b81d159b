// Small helpers for elements.
const make = (tag, attrs = {}, ...children) => {
  const svg = ["svg", "g", "path", "line", "text", "circle", "rect"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
};
const colours = (look) => `--light:${look.colour};--dark:${look.dark}`;
const DASHES = { "-": "none", "--": "6 3", "-.": "7 2.5 1.5 2.5", ":": "1.5 2.5" };
