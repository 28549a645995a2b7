// A real OpenID Connect provider on loopback, for a test: node provider.mjs FOLDER, where FOLDER has node_modules.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const folder = process.argv[2];
const entry = pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`);
const { Provider } = await import(entry);

// Resources whose tokens expire after a second.
const BRIEF = 'https://headrace.example/brief';

// A provider with a new key, which invalidates the tokens of the provider before it.
function callback(issuer) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg: 'RS256', use: 'sig' };
  const provider = new Provider(issuer, {
    jwks: { keys: [key] },
    clients: [{
      client_id: 'trainer',
      client_secret: 'a secret of this test alone',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    }],
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'predict',
          audience: resource === BRIEF ? 'https://headrace.example' : resource,
          accessTokenTTL: resource === BRIEF ? 1 : 3600,
          accessTokenFormat: 'jwt',
        }),
      },
    },
    // A machine's token has no subject of its own; RFC 9068 says that it is the client.
    extraTokenClaims: (_, token) => ({ groups: ['machines'], client: token.clientId }),
  });
  return provider.callback();
}

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  let answer = callback(issuer);
  server.on('request', (request, response) => {
    if (request.url !== '/rotate') return answer(request, response);
    answer = callback(issuer);
    return response.end();
  });
  console.log(issuer);
});
