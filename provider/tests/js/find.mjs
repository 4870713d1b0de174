// A member of the DHT that is not ours: js-libp2p asks a node for a key, opens the value that comes back, and prints who
// provides it. Usage: node find.mjs NODE KEY
import { createPublicKey, verify } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { publicKeyFromRaw } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const DOMAIN = Buffer.from('phase-dht-provider-v1\0')
// What comes before an Ed25519 key in the form that node's crypto takes (RFC 8410).
const DER = Buffer.from('302a300506032b6570032100', 'hex')

/** The providers in a value, as provider/discovery/src/dht/envelope.rs describes it. */
function open (value) {
  if (value.subarray(0, 4).toString() !== 'PHP1') throw new Error('not a value of ours')
  const providers = []
  for (let at = 4; at < value.length;) {
    const size = value.readUInt16BE(at)
    providers.push(openOne(value.subarray(at + 2, at + 2 + size)))
    at += 2 + size
  }
  return providers
}

function openOne (envelope) {
  const key = envelope.subarray(0, 32)
  const body = envelope.subarray(96)
  const signed = Buffer.concat([DOMAIN, key, body])
  const publicKey = createPublicKey({ key: Buffer.concat([DER, key]), format: 'der', type: 'spki' })
  if (!verify(null, signed, publicKey, envelope.subarray(32, 96))) throw new Error('bad signature')
  let at = 20
  const take = (size) => body.subarray(at, at += size)
  const text = () => take(take(1)[0]).toString('ascii')
  const [channel, arch, version] = [text(), text(), text()]
  const manifest = take(1)[0] === 1 ? 'sha256:' + take(32).toString('hex') : null
  const keyIds = Array.from({ length: take(1)[0] }, () => take(8).toString('hex'))
  const addresses = Array.from({ length: take(1)[0] }, () => {
    const ip = take(1)[0] === 4 ? take(4).join('.') : '[' + take(16).toString('hex') + ']'
    return ip + ':' + take(2).readUInt16BE()
  })
  const id = peerIdFromPublicKey(publicKeyFromRaw(key)).toString()
  return { id, channel, arch, version, manifest, keyIds, addresses, lifetime: body.readUInt32BE(16) }
}

const [node, key] = process.argv.slice(2)
const member = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({
      protocol: '/phase/kad/1.0.0',
      clientMode: true,
      // Private addresses are what a LAN has.
      peerInfoMapper: passthroughMapper,
      allowQueryWithZeroPeers: true,
      validators: { phase: async (_key, value) => { open(Buffer.from(value)) } },
      selectors: { phase: () => 0 }
    })
  }
})
const found = new Map()
const signal = AbortSignal.timeout(20_000)
const connection = await member.dial(multiaddr(node), { signal })
while (found.size === 0) {
  signal.throwIfAborted()
  // The node is in the table as soon as it told what it speaks.
  for await (const event of member.services.dht.get(Buffer.from(key), { signal })) {
    if (event.name !== 'VALUE') continue
    for (const provider of open(Buffer.from(event.value))) found.set(provider.id, provider)
  }
  await new Promise((resolve) => setTimeout(resolve, 100))
}
console.log(JSON.stringify({ node: connection.remotePeer.toString(), providers: [...found.values()] }))
await member.stop()
process.exit(0)
