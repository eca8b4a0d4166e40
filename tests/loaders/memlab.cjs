// Loads a .heapsnapshot by memlab; says what it makes of some nodes.
// usage: node memlab.cjs FILE FIRST STEP: nodes FIRST, FIRST + STEP, … by their number.
const { getFullHeapFromFile } = require('@memlab/heap-analysis')

const [file, first, step] = [process.argv[2], +process.argv[3], +process.argv[4]]
const log = console.log
console.log = console.info = () => {} // memlab shows its progress on stdout
getFullHeapFromFile(file).then(heap => {
  const sampled = []
  let at = 0
  heap.nodes.forEach(node => {
    if (at >= first && (at - first) % step === 0) {
      sampled.push([at, node.self_size, node.retainedSize, node.name])
    }
    at++
  })
  log(JSON.stringify({ nodes: heap.nodes.length, edges: heap.edges.length, sampled }))
})
