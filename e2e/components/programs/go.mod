module kof-istio/components/programs

go 1.26.0
