/** One line per step, on stdout, as it begins or ends. */
export const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};
