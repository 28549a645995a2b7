// A real OpenID Connect provider on loopback, for a test: node provider.mjs FOLDER, where FOLDER has node_modules.
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const folder = process.argv[2];
const entry = pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`);
const { Provider } = await import(entry);

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
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
          audience: resource,
          accessTokenTTL: 3600,
          accessTokenFormat: 'jwt',
        }),
      },
    },
    // A machine's token has no subject of its own; RFC 9068 says that it is the client.
    extraTokenClaims: (_, token) => ({ groups: ['machines'], client: token.clientId }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
