// Loads a .heapsnapshot by the code of Chrome's DevTools; says what it makes of some nodes.
// usage: node devtools.mjs FILE FIRST STEP: nodes FIRST, FIRST + STEP, … by their number.
import { createReadStream } from 'node:fs'
import { parse } from 'heap-snapshot-toolkit'

const [file, first, step] = [process.argv[2], +process.argv[3], +process.argv[4]]
const heap = await parse(createReadStream(file, 'utf-8'))
const node = heap.createNode(0)
const fields = heap.nodes.length / heap.nodeCount
const sampled = []
for (let at = first; at < heap.nodeCount; at += step) {
  node.nodeIndex = at * fields
  sampled.push([at, node.selfSize(), node.retainedSize(), node.rawName(), node.distance()])
}
const statistics = heap.getStatistics()
console.log(JSON.stringify({
  nodes: heap.nodeCount,
  edges: heap.containmentEdges.length / 3,
  total: statistics.total,
  sampled
}))
