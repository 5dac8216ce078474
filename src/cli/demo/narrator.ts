import { styleText } from 'node:util';

/** A step of the story that does not hold: what it promises, and what was there instead. */
export class StepFailed extends Error {
  override name = 'StepFailed';
  readonly expected: string;
  readonly got: string;

  constructor(expected: string, got: string) {
    super(`expected ${expected}, got ${got}`);
    this.expected = expected;
    this.got = got;
  }
}

/** Fails the step unless `holds`. */
export function check(holds: boolean, expected: string, got: unknown): asserts holds {
  if (!holds) throw new StepFailed(expected, typeof got === 'string' ? got : JSON.stringify(got));
}

/** Width of `  ✔    132 ms  `: what belongs to a step stands below its title. */
const INDENT = 15;
const indented = (text: string) => text.replaceAll('\n', `\n${' '.repeat(INDENT)}`);

/** Prints each step as it happens: in a terminal first as under way, then in its place how it went. */
export class Narrator {
  readonly #out: NodeJS.WriteStream;
  #silent = false;
  #told = 0;
  #current: string | undefined;

  constructor(out: NodeJS.WriteStream = process.stdout) {
    this.#out = out;
  }

  /** How many steps held. */
  get told(): number {
    return this.#told;
  }

  /** The title of the step that is under way. */
  get current(): string | undefined {
    return this.#current;
  }

  /** Says nothing from here on: the story was broken off, and what still runs of it is of no interest. */
  hush(): void {
    if (this.#out.isTTY && this.#current && !this.#silent) this.#out.write('\r\x1b[2K');
    this.#silent = true;
  }

  chapter(title: string): void {
    this.line(`\n${styleText('bold', title)}`);
  }

  line(text = ''): void {
    if (!this.#silent) this.#out.write(`${text}\n`);
  }

  /** Does one step. What `body` resolves with as text is shown behind the title; it rejects as `body` does. */
  async step<T>(title: string, body: () => Promise<T>): Promise<T> {
    const since = performance.now();
    this.#current = title;
    if (this.#out.isTTY && !this.#silent) this.#out.write(`  ${styleText('gray', '…')}            ${title}`);
    try {
      const result = await body();
      this.#ended(styleText('green', '✔'), since, title, typeof result === 'string' ? result : undefined);
      this.#told += 1;
      return result;
    } catch (error) {
      this.#ended(styleText('red', '✖'), since, title);
      const { expected, got } =
        error instanceof StepFailed ? error : { expected: undefined, got: (error as Error).message };
      if (expected) this.#below('expected', expected);
      this.#below('got', got);
      throw error;
    } finally {
      this.#current = undefined;
    }
  }

  #ended(mark: string, since: number, title: string, note?: string): void {
    const took = `${Math.round(performance.now() - since)} ms`.padStart(9);
    const clear = this.#out.isTTY ? '\r\x1b[2K' : '';
    this.line(`${this.#silent ? '' : clear}  ${mark} ${took}  ${title}${note ? styleText('gray', `  ${note}`) : ''}`);
  }

  #below(label: string, text: string): void {
    const words = text.length > 2000 ? `${text.slice(0, 2000)} …` : text;
    this.line(`${' '.repeat(INDENT)}${label.padEnd(10)}${indented(words)}`);
  }
}
