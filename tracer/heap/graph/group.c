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

struct groups {
    u64 nodes, count;
    const i32 *idom;
    const u64 *retained;
    u32 *group;
    bool inherit;
    u64 *bytes;
    u8 *top;
};

static void enter(struct tree *tree, struct groups *groups, u32 at)
{
    u32 *own = &groups->group[at];
    if (groups->inherit && *own >= groups->count && (u64)groups->idom[at] < groups->nodes)
        *own = groups->group[groups->idom[at]];
    if (*own >= groups->count || tree->open[*own]++)
        return;
    groups->bytes[*own] += groups->retained[at];
    groups->top[at] = 1;
}

/* Goes through one tree, down and up. A node is entered once, so a damaged tree ends, too. */
static void go(struct tree *tree, struct groups *groups, u32 root)
{
    u32 at = tree->child[root];
    while (at != NONE) {
        enter(tree, groups, at);
        if (tree->child[at] != NONE) {
            at = tree->child[at];
            continue;
        }
        for (;;) {
            if (groups->group[at] < groups->count)
                tree->open[groups->group[at]]--;
            if (tree->sibling[at] != NONE) {
                at = tree->sibling[at];
                break;
            }
            at = (u32)groups->idom[at];
            if (at >= groups->nodes)
                return;
        }
    }
}

int graph_grouped(u64 nodes, const i32 *idom, const u64 *retained, u32 *group, u64 groups,
                  bool inherit, u64 *bytes, u8 *top)
{
    struct groups all = {nodes, groups, idom, retained, group, inherit, bytes, top};
    struct tree tree = {0};
    int status = tree_new(&tree, nodes, groups) ? GRAPH_OK : GRAPH_NO_MEMORY;
    memset(bytes, 0, groups * sizeof *bytes);
    memset(top, 0, nodes);
    for (u64 node = nodes; status == GRAPH_OK && node-- > 0;) {
        if (idom[node] < 0 || (u64)idom[node] > nodes + 1) {
            status = GRAPH_DAMAGED;
            break;
        }
        tree.sibling[node] = tree.child[idom[node]];
        tree.child[idom[node]] = (u32)node;
    }
    for (u64 root = nodes; status == GRAPH_OK && root < nodes + 2; root++)
        go(&tree, &all, (u32)root);
    free(tree.child);
    free(tree.sibling);
    free(tree.open);
    return status;
}
