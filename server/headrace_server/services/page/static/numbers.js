// Computes what happened between two readings of the same counters, and formats numbers for people.

/** The histogram of the values that were counted between two readings; the later reading if there is no earlier one. */
export function between(later, earlier) {
  if (!earlier || total(earlier.counts) > total(later.counts)) return later; // another run of the server
  const counts = later.counts.map((count, bucket) => count - (earlier.counts[bucket] ?? 0));
  return { counts, sum: later.sum - earlier.sum };
}

export function total(counts) {
  return counts.reduce((sum, count) => sum + count, 0);
}

/** The sum of several histograms with the same buckets. */
export function together(histograms) {
  const counts = [];
  let sum = 0;
  for (const each of histograms) {
    each.counts.forEach((count, bucket) => { counts[bucket] = (counts[bucket] ?? 0) + count; });
    sum += each.sum;
  }
  return { counts: Array.from(counts, count => count ?? 0), sum };
}

export function mean(histogram) {
  const values = total(histogram.counts);
  return values ? histogram.sum / values : null;
}

/** The value that a share of all values does not exceed, as in Prometheus's histogram_quantile; null if there are none. */
export function quantile(histogram, bounds, share) {
  const values = total(histogram.counts);
  if (!values) return null;
  let below = 0;
  for (const [bucket, count] of histogram.counts.entries()) {
    if (count && below + count >= share * values) {
      if (bucket >= bounds.length) return bounds[bounds.length - 1];
      const low = bucket ? bounds[bucket - 1] : 0;
      return low + (bounds[bucket] - low) * (share * values - below) / count;
    }
    below += count;
  }
  return bounds[bounds.length - 1];
}

/** The growth per second between two readings of a counter; null if the counter was reset. */
export function rate(later, earlier, seconds) {
  const growth = later - (earlier ?? 0);
  return seconds > 0 && growth >= 0 ? growth / seconds : null;
}

const NONE = "–";

export function short(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (value === 0) return "0";
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"]]) {
    if (Math.abs(value) >= unit) return `${Number((value / unit).toPrecision(digits)).toLocaleString("en")} ${name}`;
  }
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

export function duration(microseconds) {
  if (microseconds === null || microseconds === undefined) return NONE;
  if (microseconds >= 1e6) return `${short(microseconds / 1e6)} s`;
  if (microseconds >= 1000) return `${short(microseconds / 1000)} ms`;
  return `${short(microseconds)} µs`;
}

export function bytes(size) {
  if (size === null || size === undefined) return NONE;
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log(Math.max(size, 1)) / Math.log(1024)));
  return `${short(size / 1024 ** power)} ${units[power]}`;
}

export function percent(share) {
  return share === null || share === undefined || !Number.isFinite(share) ? NONE : `${short(100 * share, 2)}%`;
}

export function age(seconds) {
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}
