package evidence

import (
	"github.com/sealift/sealift/measure/eventlog"
)

// forAll are the types of the node's records that every tenant may read: what
// runs here and by which rules. They name no container.
var forAll = []string{"agent-start", "agent-stop", "policy", "reference"}

// View gives a stored line as the evidence of a view holds it: as it is for the
// node's own (no namespace); other tenants' items closed for a namespace; and
// with a container, the items about other containers of the namespace closed
// too.
//
// A namespace's view can leave nothing of the namespace out: its items carry a
// pseudonym that the reader computes, and a closed item under it gives the
// omission away. A container's view cannot show as much. That the closed items
// of its namespace are about other containers is the word of the agent that
// signed the evidence; a verifier counts them and says so.
func View(line []byte, namespace, container string) ([]byte, error) {
	if namespace == "" {
		return line, nil
	}
	shown, err := eventlog.View(line, namespace, forAll...)
	if err != nil || container == "" {
		return shown, err
	}
	l, err := eventlog.DecodeLine(shown)
	if err != nil || l.Item == nil {
		return shown, err
	}
	rec, err := l.Item.Open()
	if err != nil {
		return nil, err
	}
	// Records without a container are about the namespace: what was counted
	// instead of recorded, and what an untrusted epoch found running.
	if rec.Namespace != namespace || rec.Container == container || rec.Container == "" {
		return shown, nil
	}
	c, err := l.Item.Close()
	if err != nil {
		return nil, err
	}
	return (&eventlog.Line{Closed: c}).Encode()
}
