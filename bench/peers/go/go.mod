module whorl/bench/peers/go

go 1.22
