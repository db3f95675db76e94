/**
 * Hit rate of a run with its uncertainty, from the results of the hit finder.
 *
 *   {"frames": [{"hit": true, "n_peaks": 74}, {"hit": false, "n_peaks": 0}]}
 *   -> {"frames": 2, "hits": 1, "hit_rate": 0.5, "interval_95": [0.0945, 0.9055], "median_peaks": 74}
 *
 * The interval is Wilson's score interval (J. Am. Stat. Assoc. 22, 209, 1927): it stays within 0 and 1 and is right for
 * the hit rates of a few in a thousand that beamtimes have.
 */
const Z = 1.959964; // two-sided 95 % of the normal distribution

function main(args) {
  if (!Array.isArray(args.frames) || args.frames.length === 0) {
    return { error: '"frames" must be a list of results of the hit finder, at least one' };
  }
  const broken = args.frames.findIndex((frame) => typeof frame?.hit !== 'boolean');
  if (broken >= 0) {
    return { error: `frames[${broken}] has no "hit": true or false` };
  }
  const n = args.frames.length;
  const peaks = args.frames.filter((frame) => frame.hit).map((frame) => frame.n_peaks ?? 0).sort((a, b) => a - b);
  const rate = peaks.length / n;
  const centre = (rate + Z ** 2 / (2 * n)) / (1 + Z ** 2 / n);
  const half = (Z * Math.sqrt((rate * (1 - rate)) / n + Z ** 2 / (4 * n ** 2))) / (1 + Z ** 2 / n);
  const rounded = (x) => Number(x.toFixed(4));
  console.log(`${peaks.length} hits in ${n} frames`); // a log line of the activation
  return {
    frames: n,
    hits: peaks.length,
    hit_rate: rounded(rate),
    interval_95: [rounded(Math.max(0, centre - half)), rounded(Math.min(1, centre + half))],
    median_peaks: peaks.length ? peaks[Math.floor(peaks.length / 2)] : null,
  };
}

exports.main = main;
