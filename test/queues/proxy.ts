import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A way to a server that can fall silent and be cut. */
export interface Proxied {
  url: string;
  /** How much the server has sent that was held back since `mute`. */
  held(): number;
  /** From now on the server's answers are held back; what the client sends still arrives. */
  mute(): void;
  /** Closes every connection and refuses new ones until `open`. */
  cut(): void;
  open(): void;
  close(): Promise<void>;
}

export async function createProxy(target: string): Promise<Proxied> {
  const to = new URL(target);
  const sockets = new Set<Socket>();
  let state: 'open' | 'muted' | 'cut' = 'open';
  let held = 0;
  const server = createServer((client) => {
    if (state === 'cut') return void client.destroy();
    const upstream = connect(Number(to.port || 5672), to.hostname);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.on('data', (data) => upstream.write(data));
    upstream.on('data', (data) => {
      if (state === 'open') client.write(data);
      else held += data.length;
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = new URL(target);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as AddressInfo).port);
  const cut = () => {
    state = 'cut';
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: url.toString(),
    held: () => held,
    mute: () => {
      held = 0;
      state = 'muted';
    },
    cut,
    open: () => {
      state = 'open';
    },
    async close() {
      cut();
      server.close();
    },
  };
}
