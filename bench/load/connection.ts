import { connect, type Socket } from 'node:net';

export interface Answered {
  status: number;
  body: string;
}

/**
 * One keep-alive HTTP/1.1 connection with one request at a time. Written by hand because on a small machine the load
 * generator takes its CPU from the server: this one needs about a third of what a general client does.
 */
export class Connection {
  readonly #socket: Socket;
  #received = '';
  #pending: { resolve: (answer: Answered) => void; reject: (error: Error) => void } | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => this.#take(chunk));
    const fail = (error?: Error) => this.#pending?.reject(error ?? new Error('the server closed the connection'));
    socket.on('error', fail);
    socket.on('close', () => fail());
  }

  static open(url: string): Promise<Connection> {
    const { hostname, port } = new URL(url);
    return new Promise((resolve, reject) => {
      const socket = connect({ host: hostname, port: Number(port) });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new Connection(socket));
      });
    });
  }

  /** `bytes`: a whole request. */
  send(bytes: Buffer | string): Promise<Answered> {
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject };
      this.#socket.write(bytes);
    });
  }

  close(): void {
    this.#pending = undefined;
    this.#socket.destroy();
  }

  #take(chunk: string): void {
    this.#received = this.#received === '' ? chunk : this.#received + chunk;
    const head = this.#received.indexOf('\r\n\r\n');
    if (head === -1) return;
    const length = /\r\ncontent-length: (\d+)/i.exec(this.#received.slice(0, head))?.[1];
    let end: number;
    if (length !== undefined) {
      end = head + 4 + Number(length);
      if (this.#received.length < end) return;
    } else {
      if (!this.#received.endsWith('\r\n0\r\n\r\n')) return;
      end = this.#received.length;
    }
    const answer = { status: Number(this.#received.slice(9, 12)), body: this.#received.slice(head + 4, end) };
    this.#received = this.#received.slice(end);
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.resolve(answer);
  }
}

/** A request as the bytes that go over the wire. */
export function requestBytes(method: string, url: string, token: string | undefined, body?: unknown): Buffer {
  const { host, pathname, search } = new URL(url);
  const text = body === undefined ? '' : JSON.stringify(body);
  const head = [
    `${method} ${pathname}${search} HTTP/1.1`,
    `host: ${host}`,
    'user-agent: waybill-bench/1',
    ...(token ? [`authorization: Bearer ${token}`] : []),
    ...(body === undefined ? [] : ['content-type: application/json', `content-length: ${Buffer.byteLength(text)}`]),
  ];
  return Buffer.from(`${head.join('\r\n')}\r\n\r\n${text}`);
}
