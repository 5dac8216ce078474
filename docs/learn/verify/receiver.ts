// Receives webhooks: WEBHOOK_SECRET=whsec_… PORT=8080 node receiver.ts
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { verify } from './verify.ts';

const server = createServer(async (request, response) => {
  const body = await text(request); // the bytes as they came: verify before you parse
  try {
    const event = verify(process.env.WEBHOOK_SECRET ?? '', request.headers as Record<string, string>, body);
    console.log(request.headers['webhook-id'], event); // store it, answer, then work on it
    response.writeHead(204).end();
  } catch {
    response.writeHead(400).end();
  }
});

server.listen(Number(process.env.PORT ?? 8080), () => console.log('listening', server.address()));
