import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';

/** What the sink does with the next recipients: answer with this code, stay silent, or break the connection. */
export type SinkMood = 250 | 450 | 550 | 'hang' | 'drop';

export interface SmtpSink {
  url: string;
  mood: SinkMood;
  /** What to answer after the end of the message. */
  dataReply: string;
  /** How many recipients were named so far, whatever came of it. */
  asked: number;
  /** Every message accepted, as it came over the wire. */
  messages: { recipients: string[]; source: string }[];
  close(): Promise<void>;
}

/** An SMTP server (RFC 5321) that keeps what it gets, on a free port of the loopback. */
export async function startSmtpSink(): Promise<SmtpSink> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.setEncoding('utf8').on('error', () => undefined));
    socket.on('close', () => sockets.delete(socket));
    const say = (line: string) => socket.write(`${line}\r\n`);
    let buffer = '';
    let recipients: string[] = [];
    let inData = false;
    say('220 sink');
    socket.on('data', (chunk) => {
      buffer += chunk;
      for (
        let end = buffer.indexOf(inData ? '\r\n.\r\n' : '\r\n');
        end >= 0;
        end = buffer.indexOf(inData ? '\r\n.\r\n' : '\r\n')
      ) {
        const part = buffer.slice(0, end);
        buffer = buffer.slice(end + (inData ? 5 : 2));
        if (inData) {
          inData = false;
          if (sink.dataReply.startsWith('2')) sink.messages.push({ recipients, source: part });
          recipients = [];
          say(sink.dataReply);
        } else if (/^rcpt/i.test(part)) {
          sink.asked += 1;
          if (sink.mood === 'drop') return socket.destroy();
          if (sink.mood === 'hang') return;
          const address = /<(.*)>/.exec(part)?.[1] ?? '';
          if (sink.mood === 250) recipients.push(address);
          say(sink.mood === 250 ? '250 ok' : `${sink.mood} <${address}> not now`);
        } else if (/^data/i.test(part)) {
          inData = true;
          say('354 go on');
        } else say(/^quit/i.test(part) ? '221 bye' : '250 ok');
      }
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const sink: SmtpSink = {
    url: `smtp://127.0.0.1:${(server.address() as AddressInfo).port}`,
    mood: 250,
    dataReply: '250 queued',
    asked: 0,
    messages: [],
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return sink;
}
