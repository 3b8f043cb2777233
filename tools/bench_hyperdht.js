// A worker of tools/bench dht for HyperDHT: `bench_hyperdht.js PACKAGE SEED SIZE_BYTES`.
// The orders and the answers are those of bench_dht_worker.py, which tells what they mean.
'use strict'

const { createHash } = require('crypto')
const { createInterface } = require('readline')

const [packagePath, seed, sizeText] = process.argv.slice(2)
const DHT = require(packagePath)

const HOST = '127.0.0.1'
const NOBODY_STORED = -1
const nodes = []

// What the package prints must not pass for an answer.
const answer = process.stdout.write.bind(process.stdout)
process.stdout.write = process.stderr.write.bind(process.stderr)

function valueOf (number) {
  const hash = createHash('shake128', { outputLength: Number(sizeText) })
  return hash.update(`${seed}:${number}`).digest()
}

async function host ({ count, join, measuring }) {
  for (let i = 0; i < count; i++) {
    // Only this list is ever asked: an empty one makes the first node of a network of its own.
    const bootstrap = join.map((port) => ({ host: HOST, port }))
    // A node that asks is what a new DHT() is: others keep nothing with it.
    const kind = measuring ? { ephemeral: true } : { ephemeral: false, firewalled: false }
    const node = new DHT({ ...kind, bootstrap, host: HOST, port: 0 })
    await node.fullyBootstrapped()
    nodes.push(node)
    if (join.length === 0) join = [node.address().port]
  }
  return { ports: nodes.map((node) => node.address().port) }
}

async function put (number) {
  const { hash, closestNodes } = await nodes[nodes.length - 1].immutablePut(valueOf(number))
  const copies = closestNodes.length
  return [copies ? 'found' : 'failed', hash.toString('hex'), copies, []]
}

async function get ([key, number]) {
  const found = await nodes[nodes.length - 1].immutableGet(Buffer.from(key, 'hex'))
  if (found === null) return ['missing']
  const right = number !== NOBODY_STORED && found.value.equals(valueOf(number))
  return [right ? 'found' : 'wrong']
}

function within (promise, patienceMs) {
  let timer
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, patienceMs, ['late'])
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function time (order, call) {
  const results = []
  const until = performance.now() + order.begin_within_s * 1000
  let began = 0
  async function goOn () {
    while (began < order.items.length && performance.now() < until) {
      const place = began++
      const start = performance.now()
      let told
      try {
        told = await within(call(order.items[place]), order.patience_s * 1000)
      } catch (error) {
        told = ['failed']
        process.stderr.write(`${error.name}: ${error.message}\n`)
      }
      results[place] = [performance.now() - start, ...told]
    }
  }
  await Promise.all(Array.from({ length: order.at_once }, goOn))
  return { results }
}

function carryOut (order) {
  if (order.do === 'host') return host(order)
  if (order.do === 'put') return time(order, put)
  if (order.do === 'get') return time(order, get)
  throw new Error(`no such order: ${order.do}`)
}

const orders = createInterface({ input: process.stdin })
let last = Promise.resolve()
orders.on('line', (line) => {
  last = last.then(async () => {
    let told
    try {
      told = await carryOut(JSON.parse(line))
    } catch (error) {
      told = { error: `${error.name}: ${error.message}` }
    }
    answer(JSON.stringify(told) + '\n')
  })
})
// Nothing is left behind when the one who started this is gone.
orders.on('close', () => process.exit(0))
