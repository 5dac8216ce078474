import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, Socket } from 'node:net';

/** One client connection and its other half at the server. */
interface Pair {
  client: Socket;
  server: Socket;
}

/**
 * A TCP proxy that breaks the network between its clients and one server of the loopback.
 *
 *   passing   bytes go both ways, each chunk `delayMs` late
 *   blackhole nothing goes either way, no connection is closed, new ones are taken and starve; what was sent waits
 *
 * `halfOpen` and `reset` happen once, to the connections of that moment; later ones pass.
 */
export class FaultyProxy {
  readonly #server: Server;
  readonly #target: number;
  readonly #pairs = new Set<Pair>();
  /** Clients whose server half is gone without their knowing. */
  readonly #orphans = new Set<Socket>();
  #blackhole = false;
  delayMs = 0;

  constructor(targetPort: number) {
    this.#target = targetPort;
    this.#server = createServer((client) => this.#accept(client));
  }

  /** Listens on a free loopback port and resolves with it. */
  async listen(): Promise<number> {
    await once(this.#server.listen(0, '127.0.0.1'), 'listening');
    return (this.#server.address() as AddressInfo).port;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  set blackhole(on: boolean) {
    this.#blackhole = on;
    for (const { client, server } of this.#pairs) {
      for (const socket of [client, server]) {
        if (on) socket.pause();
        else socket.resume();
      }
    }
  }

  /** The server's halves vanish; the clients are told nothing, and what they say is swallowed. */
  halfOpen(): void {
    for (const pair of this.#pairs) {
      this.#pairs.delete(pair);
      this.#orphans.add(pair.client);
      pair.client.removeAllListeners('data').on('data', () => undefined);
      pair.server.removeAllListeners('close').destroy();
    }
  }

  /** Both halves end with a TCP reset. */
  reset(): void {
    for (const { client, server } of this.#pairs) {
      client.resetAndDestroy();
      server.resetAndDestroy();
    }
  }

  async close(): Promise<void> {
    for (const { client, server } of this.#pairs) {
      client.destroy();
      server.destroy();
    }
    for (const client of this.#orphans) client.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #accept(client: Socket): void {
    const server = new Socket();
    const pair = { client, server };
    this.#pairs.add(pair);
    client.setNoDelay(true);
    server.setNoDelay(true);
    this.#join(client, server);
    this.#join(server, client);
    client.on('close', () => {
      this.#pairs.delete(pair);
      this.#orphans.delete(client);
      server.destroy();
    });
    // A server that refuses the connection looks like one that hangs up.
    server.on('close', () => client.destroy());
    server.connect(this.#target, '127.0.0.1');
    if (this.#blackhole) {
      client.pause();
      server.pause();
    }
  }

  #join(from: Socket, to: Socket): void {
    from.on('error', () => undefined);
    from.on('data', (chunk) => {
      if (this.delayMs === 0) to.write(chunk);
      // Timers of one duration fire in the order they were set, so the bytes keep theirs.
      else setTimeout(() => to.writable && to.write(chunk), this.delayMs);
    });
  }
}
