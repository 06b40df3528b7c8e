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

/**
 * Among the first k rows those of one source, all without one: how many there are, `of[k]`, and for each feature how many of
 * them have the query's value, `each[feature][k]`.
 */
export function agreeing(rows, features, source = null) {
  const cumulated = (counts) => {
    const sums = new Uint32Array(rows.length + 1);
    rows.forEach((row, k) => (sums[k + 1] = sums[k] + ((source ?? row.sample.source) === row.sample.source && counts(row))));
    return sums;
  };
  const each = features.names.map((name, f) => {
    const wanted = String(features.query[name]);
    return cumulated((row) => String(row.values[f]) === wanted);
  });
  return { of: cumulated(() => true), each };
}

/** Wilson's 95 % interval of a share. */
export function wilson(hits, trials) {
  const [share, z2] = [hits / trials, 1.959964 ** 2 / trials];
  const reach = Math.sqrt(share * (1 - share) * z2 + z2 ** 2 / 4);
  const ends = [-1, 1].map((sign) => (share + z2 / 2 + sign * reach) / (1 + z2));
  return [hits ? Math.min(ends[0], share) : 0, hits < trials ? Math.max(ends[1], share) : 1];
}

/**
 * What may be said of the features inside ε: `entries`, most telling first, and a `sentence` on what they are told from.
 *
 * At the reading's own ε that is all that was found inside. At a smaller one the rows of an exact source are draws from what
 * lies inside it; at a larger one the nearest outside are all there are, up to the last of them. A decoder's samples say
 * something only where its bias was measured. What is not known has no share.
 */
export function common({ preimage, features }, rows, tally, k, epsilon) {
  const all = features.inside;
  const [exact, last] = [all?.source === "corpus", rows.at(-1)?.sample.distance ?? 0];
  const outside = all ? insideCount(rows, all.epsilon) : 0;
  if (all && epsilon === all.epsilon) return { entries: inOrder(features, (f) => ofAll(all, f)), sentence: basis(all) };
  if (all?.source === "decoder" || (!all && preimage.source !== "corpus")) {
    const near = all?.weighed ? "Shares" : "Samples near z, not draws; shares";
    const sentence = all ? `${near} are told at ε = ${all.epsilon} only.` : "";
    return { entries: inOrder(features, () => null), sentence };
  }
  if (!all || epsilon < all.epsilon) {
    const [n, every] = [tally.of[k], all && tally.of[outside] === all.inside];
    const entry = (f) => ofCounts(features, f, tally.each[f][k], n, valuesOf(rows, f, k, all?.source), all?.features[f]?.trusted);
    return { entries: inOrder(features, entry), sentence: `As in the query, of ${every ? "all" : "the"} ${n} ${every ? "" : "rows shown "}inside this ε:` };
  }
  if (!exact || epsilon > last) {
    const known = exact ? `up to D = ${last.toPrecision(3)}` : `at ε = ${all.epsilon}`;
    return { entries: inOrder(features, () => null), sentence: `Known ${known} only: read again with this ε.` };
  }
  const beyond = tally.of[k] - tally.of[outside];
  const entry = (f) => {
    const more = tally.each[f][k] - tally.each[f][outside];
    const inner = all.features[f]?.share ?? 0;
    const within = [inner * all.inside + more, all.inside + beyond];
    const worth = (all.counted + beyond) / within[1];
    return ofCounts(features, f, within[0] * worth, within[1] * worth, null, all.features[f]?.trusted ?? true);
  };
  return { entries: inOrder(features, entry), sentence: `As in the query, of all ${plainNumber(all.inside + beyond)} inside this ε:` };
}

function basis({ source, inside, counted, features, weighed }) {
  if (weighed) return `As in the query, of ${plainNumber(counted)} weighed draws inside ε:`;
  if (source === "decoder") return features.length ? "Samples near z, not draws; KL says how far off:" : "Samples near z, not draws: no shares are told.";
  if (!features.length) return "Nothing inside to tell of.";
  const [n, all] = [counted, inside].map(plainNumber);
  if (inside === 1 && source === "corpus") return "As in the query, of the one inside ε:";
  const from = source === "walk" ? `${n} draws` : counted < inside ? `${n} of the ${all}` : `all ${n}`;
  return `As in the query, of ${from} inside ε:`;
}

const plainNumber = (count) => count.toLocaleString("en-US");

function ofAll(all, f) {
  const one = all.features[f];
  return one && { ...one, counted: all.counted, told: spread(one.values, one.distinct, all.counted) };
}

/** An entry from counts: bits = log2(known / prior), the prior counted as one more, as in `inversionview inform`. */
function ofCounts(features, f, agree, n, values, trusted = true) {
  if (!n) return null;
  const prior = features.prior[features.names[f]];
  const [low, high] = wilson(agree, n);
  const bits = agree && prior && trusted ? Math.log2((agree + prior) / (n + 1) / prior) : null;
  const ends = bits === null ? [null, null] : [Math.log2(low / prior), Math.min(Math.log2(high / prior), -Math.log2(prior))];
  const told = values ? spread(values.list, values.list.length, n) : "";
  return { agreeing: agree, counted: n, share: agree / n, low, high, bits, bits_low: ends[0], bits_high: ends[1], told, trusted };
}

/**
 * Bits about a feature as a reader would say them: at most those there are to tell. Below 0, as they may truly be for one
 * query, the query's value is less common inside ε than among all inputs, which no number of bits says as plainly.
 */
export function inBits(bits) {
  if (bits === null) return "–";
  return bits <= -0.05 ? "less common" : `${Math.max(0, bits).toFixed(1)} bits`;
}

/** The name of a preimage's distance, which may come with the corpus that its statistics are of. */
export const metricOf = ({ distance }) => distance.name ?? distance;

/** What a threshold means: its distance or, of one number, the interval in the number's own units. */
export function meaningOf({ within, epsilon: own, query, distance }, epsilon) {
  if (typeof within !== "number") return distance.name ?? distance;
  if (query.value === 0 && query.site.includes("|sae")) return "of the spread: off alone";
  return `of the spread: ${shortNumber(query.value)} ± ${shortNumber((within * epsilon) / own)}`;
}

const shortNumber = (x) => String(Number(x.toPrecision(3)));

/** Whether all that is known of bits is their lower end: nothing was found, or one input, the least that a corpus can show. */
export const bounded = ({ hits, method }) => hits < (["splitting", "importance"].includes(method) ? 1 : 2);

/** Bits of a reading as text; where all that is known is a bound, that, rounded down so that it stays one. */
export function bitsText(bits, digits = 1) {
  const { value, low, high } = bits;
  if (!bounded(bits)) return `${high === null ? "about " : ""}${value.toFixed(digits)}`;
  const unit = 10 ** digits;
  return `≥ ${(Math.floor(low * unit + 1e-9) / unit).toFixed(digits)}`;
}

function valuesOf(rows, f, k, source = null) {
  const counts = new Map();
  for (const { sample, values } of rows.slice(0, k)) {
    if (source && sample.source !== source) continue;
    counts.set(String(values[f]), (counts.get(String(values[f])) ?? 0) + 1);
  }
  return { list: [...counts].sort((a, b) => b[1] - a[1]) };
}

function inOrder(features, entry) {
  const [none, last] = [{ share: null, bits: null, told: "–", trusted: true }, -Infinity];
  return features.names
    .map((name, index) => {
      const prior = features.prior[name];
      const known = name in features.query ? entry(index) : null;
      return { ...(known ?? none), name, index, value: String(features.query[name]), most: prior ? -Math.log2(prior) : null };
    })
    .sort((a, b) => b.trusted - a.trusted || (b.bits ?? last) - (a.bits ?? last) || a.index - b.index);
}

/** Values with their counts, the most frequent first, of n as a reader would say it: "8", "7–9", "a, b" or "23 values". */
export function spread(counts, distinct, n) {
  let [covered, taken] = [0, 0];
  while (taken < counts.length && covered < 0.9 * n) covered += counts[taken++][1];
  if (!taken) return "–";
  const main = counts.slice(0, taken).map(([value]) => value);
  if (covered < 0.9 * n) return plainly(distinct);
  if (main.length <= 1) return String(main[0]);
  const numbers = main.map(Number).sort((a, b) => a - b);
  const [least, most] = [numbers[0], numbers.at(-1)];
  if (numbers.every(Number.isInteger) && most - least === numbers.length - 1) return `${least}–${most}`;
  return main.length <= 3 ? main.join(", ") : plainly(distinct);
}

const plainly = (count) => `${count} values`;

/** What was searched, drawn or measured, in short. */
export function searched({ source, candidates, corpus }) {
  if (!corpus) return `${plainNumber(candidates)} ${{ decoder: "drawn", corpus: "searched" }[source] ?? "measured"}`;
  if (corpus.occurrences === undefined) return corpus.source;
  const of = corpus.source ? ` of ${corpus.source.split("/").at(-1)}` : "";
  const [tokens, windows] = [corpus.occurrences, corpus.windows].map(plainNumber);
  return `${tokens} tokens${of} in ${windows} ${corpus.windows === 1 ? "window" : "windows"} of at most ${corpus.context}`;
}

/** How much of all that was measured lies inside ε; where ε was moved, only how many of the rows shown do. */
export function amount({ epsilon, inside, candidates, source, bits }, now, k, rows) {
  const [some, all, every, each] = [k, rows, inside ?? 0, candidates].map(plainNumber);
  if (now === epsilon && bits?.occurrences !== undefined) {
    const { hits, inputs, windows } = bits;
    const within = windows > 1 ? `, in ${plainNumber(windows)} windows` : "";
    return `${plainNumber(hits)} of ${plainNumber(inputs)} occurrences inside${shared(hits, inputs)}${within}`;
  }
  if (now !== epsilon || inside === undefined || inside === null) return `${some} of the ${all} rows shown inside`;
  if (source === "walk") return `${every} members found inside`;
  return `${every} of ${each} ${source === "decoder" ? "candidates" : "inputs"} inside${shared(inside, candidates)}`;
}

function shared(some, all) {
  const share = (100 * some) / all;
  return some && some < all ? ` (${share < 10 ? Number(share.toPrecision(2)) : Math.round(share)} %)` : "";
}

/** Which of these the rows are: a choice, unless all are shown. */
export function chosen({ epsilon, distinct, samples, corpus, per_window: most }) {
  const [within, all] = [samples.filter((sample) => sample.distance <= epsilon).length, distinct ?? null];
  if (corpus) return samples.length ? chosenOf(within, all, samples.length - within, most) : "";
  if (all === null || !samples.length) return "";
  const some = !within ? "none inside" : within === all ? (all === 1 ? "the one inside" : `all ${all} inside`) : `${within} of those inside by lot`;
  const beyond = samples.length - within;
  return `Rows: ${some}${beyond ? ` and the ${beyond} nearest outside` : ""}.`;
}

/** The same of occurrences in natural text. */
function chosenOf(within, all, beyond, most) {
  const every = all === null ? "" : within === all ? "all " : "";
  const of = all === null || within === all ? "" : ` of the ${plainNumber(all)} that differ`;
  const some = within ? `${every}${plainNumber(within)}${of} inside` : "none inside";
  const rest = beyond ? ` and the ${beyond === 1 ? "" : `${plainNumber(beyond)} `}nearest outside` : "";
  return `Rows: ${some}${rest}${most ? `, at most ${most} of a window` : ""}.`;
}

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
