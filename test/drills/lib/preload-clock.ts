/**
 * Loaded into a process before anything else (`node --import`): its wall clock then stands apart from the host's by the
 * ms in the file that DRILL_CLOCK names, read at the start and on each SIGUSR2. Only `Date` jumps; timers and
 * `performance.now()` go on, as they do when the clock of a host is set.
 */
import { readFileSync, writeFileSync } from 'node:fs';

const path = process.env.DRILL_CLOCK;
if (path) {
  const Host = Date;
  let apart = 0;
  const now = () => Host.now() + apart;
  const read = () => {
    apart = Number(readFileSync(path, 'utf8'));
    writeFileSync(`${path}.read`, String(apart));
  };
  read();
  process.on('SIGUSR2', read);
  globalThis.Date = new Proxy(Host, {
    construct: (target, args, self) => Reflect.construct(target, args.length > 0 ? args : [now()], self),
    apply: () => new Host(now()).toString(),
    get: (target, name) => (name === 'now' ? now : Reflect.get(target, name)),
  });
}
