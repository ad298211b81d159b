// Words and numbers, written as in the tables (reports/text.py).
const number = (v) => {
  if (v === null || !Number.isFinite(v)) return "–";
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (size >= 99.95) return Math.round(v).toLocaleString("en-US");
  return size < 0.001 ? v.toExponential(1) : v.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
};
const length = (v) => (v >= 1024 && v % 1024 === 0 ? `${v / 1024}K` : v.toLocaleString("en-US"));
const short = (v) => (v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(0)
  : v.toLocaleString("en-US", { maximumSignificantDigits: 3, notation: Math.abs(v) >= 1e4 ? "compact" : "standard" }));
const write = {
  length, number, exact: (v) => exact(v), percent: (v) => (v === null ? "–" : `${(100 * v).toFixed(1)} %`),
};
const exact = (v) => v.toLocaleString("en-US", { maximumSignificantDigits: 6 });
const tickText = { length, number: short, exact, percent: (v) => `${Number((100 * v).toFixed(1))}%` };
