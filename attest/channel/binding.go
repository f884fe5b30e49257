package channel

// Binding is what the qualification of a quote is made of.
type Binding struct {
	Purpose       string
	Exporter      []byte
	VerifierNonce []byte
	OwnNonce      []byte
	OwnSPKI       []byte
	PeerSPKI      []byte
	AKName        []byte
	Ticket        []byte
}
