/** Values as words. Nothing here touches the page. */

/** `1500` → `1.5 s`. */
export function span(ms) {
  const size = Math.abs(ms);
  if (size < 1000) return `${Math.round(ms)} ms`;
  if (size < 60_000) return `${(ms / 1000).toFixed(size < 10_000 ? 1 : 0)} s`;
  if (size < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  if (size < 172_800_000) return `${(ms / 3_600_000).toFixed(size < 36_000_000 ? 1 : 0)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

const pad = (n, digits = 2) => String(n).padStart(digits, '0');

/** The reader's own clock: `13:05:09`, with thousandths where they matter. */
export function clock(iso, exact = false) {
  const at = new Date(iso);
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  return exact ? `${time}.${pad(at.getMilliseconds(), 3)}` : time;
}

/** `2026-11-20 13:05:09`; the date is left out today. */
export function moment(iso, now = new Date()) {
  const at = new Date(iso);
  const date = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return at.toDateString() === now.toDateString() ? clock(iso) : `${date} ${clock(iso)}`;
}

/** `in 5 s`, `3 min ago`. */
export function relative(iso, now = Date.now()) {
  const ms = Date.parse(iso) - now;
  if (Math.abs(ms) < 1000) return 'now';
  return ms > 0 ? `in ${span(ms)}` : `${span(-ms)} ago`;
}

export const count = (n) => Number(n).toLocaleString('en');

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** `first_error` → `first error`. */
export const words = (name) => String(name).replaceAll('_', ' ');

/** A value in one line. */
export function line(value) {
  if (value === null || value === undefined) return '';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** Text as it is, JSON in order, so that it can be read. */
export function readable(value) {
  if (typeof value !== 'string') return JSON.stringify(value, null, 2);
  try {
    const parsed = JSON.parse(value);
    return typeof parsed === 'object' && parsed !== null ? JSON.stringify(parsed, null, 2) : value;
  } catch {
    return value;
  }
}

export const isUuid = (text) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text);

/** What a status means, as one of five tones. */
const TONES = {
  good: 'ok up enabled succeeded delivered sent sealed published accepted approved verified active success replayed true',
  wait: 'pending running waiting paused degraded processing in_review awaiting_input queued stopping held unverified throttled',
  bad: 'failed down dead disabled rejected denied failure set_aside expired locked exhausted false',
};
const TONE = new Map(Object.entries(TONES).flatMap(([tone, names]) => names.split(' ').map((name) => [name, tone])));
export const toneOf = (status) => TONE.get(String(status)) ?? 'plain';
