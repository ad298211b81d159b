// Scales and ticks of an axis.
function scale(axis, values, start, end, pad, wanted) {
  const log = axis.scale === "log" || axis.scale === "log2";
  let [low, high] = [Math.min(...range(values)), Math.max(...range(values))];
  if (!Number.isFinite(low)) [low, high] = [1, 10];
  const forward = log ? Math.log10 : (v) => v;
  let [a, b] = [forward(low), forward(high)];
  const span = Math.max(b - a, log ? 0.3 : axis.text === "percent" ? 0.05 : Math.abs(b) * 0.05 || 1e-9);
  a -= span * pad[0];
  b += span * pad[1];
  if (axis.text === "percent") [a, b] = [Math.max(a, -0.04), Math.min(b, 1.04)];
  const at = (v) => start + ((forward(v) - a) / (b - a)) * (end - start);
  const back = log ? (v) => 10 ** v : (v) => v;
  const ticks = axis.scale === "log2" ? thin([...new Set(values)].sort((p, q) => p - q), wanted)
    : log ? decades(back(a), back(b), wanted) : steps(a, b, wanted);
  return { at, ticks };
}
// Two values instead of a spread of thousands, which would overflow the stack.
const range = (values) => values.reduce(([l, h], v) => [Math.min(l, v), Math.max(h, v)], [Infinity, -Infinity]);
const thin = (values, wanted) => values.filter((_, i) => i % Math.ceil(values.length / wanted) === 0);
function steps(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}
function decades(low, high, wanted) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = Math.ceil((last - first) / wanted);
  const digits = last - first <= 2 ? [1, 2, 5] : last - first <= 4 ? [1, 3] : [1];
  const ticks = [];
  for (let d = first; d <= last; d += every) for (const m of digits) ticks.push(Number(`${m}e${d}`));
  return ticks.filter((v) => v >= low && v <= high);
}
// Places in ascending order, moved so that each is `gap` from the next, all within low and high.
function spread(places, gap, low, high) {
  const step = Math.min(gap, (high - low) / Math.max(1, places.length - 1));
  const moved = [];
  for (const place of places) moved.push(Math.max(low, place, moved.length ? moved.at(-1) + step : low));
  for (let i = moved.length - 1, most = high; i >= 0; most = moved[i--] - step) moved[i] = Math.min(moved[i], most);
  return moved;
}
