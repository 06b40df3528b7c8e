// Sites by name, of the map or of any other kind: what a study knows of them, and how a name that is typed may go on.

/** What is known of a study's sites: of those in its map, and of others that were named. */
export const sitesOf = (info) => [...info.sites, ...(info.named ?? [])];

/** What is known of one; undefined where it is neither in the map nor was named. */
export const siteOf = (info, name) => sitesOf(info).find(({ short }) => short === name);

/** At most so many names that begin as what was typed; without anything, the first of each kind. */
export function completions({ sites, others }, typed, most = 40) {
  if (!typed) return [...new Map(others.map((kind) => [kind.short, { name: named(kind, 0, 0), told: toldOf(kind) }])).values()];
  const found = [];
  for (const { short } of sites) {
    if (short.startsWith(typed)) found.push({ name: short, told: "in the map" });
    if (found.length >= most) return found;
  }
  for (const kind of others)
    for (let layer = 0; layer < kind.layers; layer++)
      for (let head = 0; head < (kind.each ?? 1); head++) {
        const name = named(kind, layer, head);
        if (name.startsWith(typed)) found.push({ name, told: toldOf(kind) });
        if (found.length >= most) return found;
      }
  return found;
}

const named = ({ short }, layer, head) => short.replace("{layer}", layer).replace("{head}", head);
const toldOf = ({ what, numbers }) => `${what.replace(/ \(.*/, "")}, ${numbers} ${numbers === 1 ? "number" : "numbers"}`;
