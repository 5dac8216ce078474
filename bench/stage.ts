import type { Side, StageResult } from './measure.ts';
import type { Platform } from './platform.ts';

/** What every stage is given. */
export interface StageContext {
  platform: Platform;
  /** Per measurement. */
  seconds: number;
  /** Measurements per side. */
  runs: number;
  report: (line: string) => void;
}

/** The platform's own side, ready to be measured; `close` ends its processes. */
export interface Subject extends Side {
  close(): Promise<void>;
}

export interface Stage {
  name: string;
  /** What is counted, per second. */
  unit: string;
  /** Starts the processes that the stage is about. */
  subject(platform: Platform, seconds: number): Promise<Subject>;
  /** Subject and baselines, interleaved. */
  run(context: StageContext): Promise<StageResult[]>;
}

/** Warm-up of both sides before a measurement, in seconds: compiled code, open connections, filled caches. */
export const warmSeconds = (seconds: number): number => Math.min(1.5, Math.max(0.5, seconds / 3));
