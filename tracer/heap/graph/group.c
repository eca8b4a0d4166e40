/* What groups of nodes keep alive together. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

struct tree {
    u32 *child, *sibling; /* of each node: the first below it, the next beside it; NONE */
    u32 *open;            /* of each group: how many members are above, here included */
};

static bool tree_new(struct tree *tree, u64 nodes, u64 groups)
{
    tree->child = malloc((nodes + 2) * sizeof *tree->child);
    tree->sibling = malloc((nodes + 2) * sizeof *tree->sibling);
    tree->open = calloc(groups + 1, sizeof *tree->open);
    if (!tree->child || !tree->sibling || !tree->open)
        return false;
    memset(tree->child, 0xff, (nodes + 2) * sizeof *tree->child);
    return true;
}

/* Goes through one tree, down and up. A node is entered once, so a damaged tree ends, too. */
static void go(struct tree *tree, u64 nodes, const i32 *idom, const u64 *retained,
               const u32 *group, u64 groups, u64 *bytes, u32 top)
{
    u32 at = tree->child[top];
    while (at != NONE) {
        u32 own = group[at];
        if (own < groups && !tree->open[own]++)
            bytes[own] += retained[at];
        if (tree->child[at] != NONE) {
            at = tree->child[at];
            continue;
        }
        for (;;) {
            if (group[at] < groups)
                tree->open[group[at]]--;
            if (tree->sibling[at] != NONE) {
                at = tree->sibling[at];
                break;
            }
            at = (u32)idom[at];
            if (at >= nodes)
                return;
        }
    }
}

int graph_grouped(u64 nodes, const i32 *idom, const u64 *retained, const u32 *group, u64 groups,
                  u64 *bytes)
{
    struct tree tree = {0};
    int status = tree_new(&tree, nodes, groups) ? GRAPH_OK : GRAPH_NO_MEMORY;
    memset(bytes, 0, groups * sizeof *bytes);
    for (u64 node = nodes; status == GRAPH_OK && node-- > 0;) {
        if (idom[node] < 0 || (u64)idom[node] > nodes + 1) {
            status = GRAPH_DAMAGED;
            break;
        }
        tree.sibling[node] = tree.child[idom[node]];
        tree.child[idom[node]] = (u32)node;
    }
    for (u64 top = nodes; status == GRAPH_OK && top < nodes + 2; top++)
        go(&tree, nodes, idom, retained, group, groups, bytes, (u32)top);
    free(tree.child);
    free(tree.sibling);
    free(tree.open);
    return status;
}
