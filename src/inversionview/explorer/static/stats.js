// Pure functions on a reading: what lies inside ε, what is common there, how distances spread, which rows are shown.

/** Rows of a reading in order of distance, each with its feature values. */
export function ranked(reading) {
  const values = reading.features?.values ?? [];
  return reading.preimage.samples
    .map((sample, index) => ({ sample, values: values[index] ?? [] }))
    .sort((a, b) => a.sample.distance - b.sample.distance);
}

/** How many rows, sorted by distance, lie inside ε. */
export function insideCount(rows, epsilon) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].sample.distance <= epsilon) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** For each feature, among the first k rows how many have the query's value: `[feature][k]`. */
export function agreeing(rows, features) {
  return features.names.map((name, f) => {
    const wanted = String(features.query[name]);
    const counts = new Uint32Array(rows.length + 1);
    rows.forEach((row, k) => {
      counts[k + 1] = counts[k] + (String(row.values[f]) === wanted);
    });
    return counts;
  });
}

/**
 * What k rows inside ε have in common with the query, most telling first: their share, and bits = log2(known / prior).
 * The prior counts as one more row, so that few rows say little; so does `inversionview inform`.
 */
export function common(features, counts, k) {
  return features.names
    .map((name, f) => {
      const prior = features.prior[name];
      const share = k && name in features.query ? counts[f][k] / k : null;
      const bits = share && prior ? Math.log2((counts[f][k] + prior) / (k + 1) / prior) : null;
      return {
        name,
        index: f,
        value: String(features.query[name]),
        share,
        bits,
        most: prior ? -Math.log2(prior) : null,
      };
    })
    .sort((a, b) => (b.bits ?? -Infinity) - (a.bits ?? -Infinity) || a.index - b.index);
}

/** The values of a feature among the first k rows, as a reader would say it: "8", "7–9", "a, b" or "23 values". */
export function spread(rows, feature, k) {
  const counts = new Map();
  for (let i = 0; i < k; i++) {
    const value = String(rows[i].values[feature]);
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  const order = [...counts].sort((a, b) => b[1] - a[1]);
  let [covered, taken] = [0, 0];
  while (taken < order.length && covered < 0.9 * k) covered += order[taken++][1];
  const main = order.slice(0, taken).map(([value]) => value);
  if (main.length <= 1) return main[0] ?? "–";
  const numbers = main.map(Number).sort((a, b) => a - b);
  const [least, most] = [numbers[0], numbers.at(-1)];
  if (numbers.every(Number.isInteger) && most - least === numbers.length - 1) return `${least}–${most}`;
  return main.length <= 3 ? main.join(", ") : plainly(counts.size);
}

const plainly = (count) => `${count} values`;

/** Counts of distances in bins that are even in √D, so that what lies near 0 is seen. */
export function histogram(rows, most, bins) {
  const counts = new Array(bins).fill(0);
  for (const { sample } of rows) counts[Math.min(bins - 1, Math.floor(bins * place(sample.distance, most)))]++;
  return counts;
}

/** Where a distance lies on the axis, 0 … 1, and back. */
export const place = (distance, most) => Math.sqrt(Math.min(1, Math.max(0, distance / most)));
export const unplace = (share, most) => share * share * most;

/** A filter's conditions: `count=8`, `letter!=v`, and words that the text must contain. */
export function conditions(text, names) {
  const known = [...names].sort((a, b) => b.length - a.length);
  return text
    .split(/\s+/)
    .filter(Boolean)
    .map((term) => {
      const name = known.find((each) => term.startsWith(`${each}=`) || term.startsWith(`${each}!=`));
      if (name === undefined) return { word: term.toLowerCase() };
      const negated = term[name.length] === "!";
      return { feature: names.indexOf(name), negated, value: term.slice(name.length + (negated ? 2 : 1)) };
    });
}

/** Whether a row satisfies all conditions. */
export function holds(row, wanted) {
  return wanted.every(({ word, feature, negated, value }) =>
    word === undefined
      ? (String(row.values[feature]) === value) !== negated
      : row.sample.text.toLowerCase().includes(word),
  );
}

/** A choice of `count` rows: of the `inside` first ones evenly, then the nearest outside. */
export function choice(total, inside, count) {
  const taken = Math.min(inside, Math.max(Math.round(0.65 * count), count - (total - inside)));
  const every = Array.from({ length: taken }, (_, i) => Math.floor((i * inside) / taken));
  const beyond = Math.min(total - inside, count - taken);
  return [...every, ...Array.from({ length: beyond }, (_, i) => inside + i)];
}

/** Numbers of rows by the value of a feature, the most frequent value first. */
export function grouped(numbers, rows, feature) {
  const groups = new Map();
  for (const i of numbers) {
    const value = String(rows[i].values[feature]);
    if (!groups.has(value)) groups.set(value, []);
    groups.get(value).push(i);
  }
  return [...groups].sort((a, b) => b[1].length - a[1].length).map(([value, members]) => ({ value, members }));
}
